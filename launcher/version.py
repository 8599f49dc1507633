"""The version, once: the package's metadata, `vidjobs --version` and every run's record read it here."""

VERSION = "0.1.0"
