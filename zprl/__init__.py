from zprl import native

__version__ = "0.1.0"

native.guard()
