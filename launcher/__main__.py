"""The `vidjobs` command, also as `python -m launcher`."""

import gc

# Before the imports: what they make stays, and to look it over for garbage as often as usual takes
# a twentieth of a command's time.
gc.set_threshold(20_000)

from launcher.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
