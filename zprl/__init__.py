from zprl import safe_torch_import

__version__ = "0.1.0"

safe_torch_import.guard()
