"""The cloud half: packets in, predictions out."""
