"""The networks, by name. Importing this package costs no torch; `create` imports the one family it needs."""

from trainer.models.registry import create, names

__all__ = ["create", "names"]
