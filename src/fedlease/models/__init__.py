"""Loading and checking the frozen base model. Nothing here knows rows or adapters of clients."""
