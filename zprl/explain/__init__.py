"""What steering does, drawn from what the pipeline keeps anyway: demonstrations, base policy, steering bundle."""
