"""`python -m mvc`: the command, for launchers that start a module (`torchrun -m mvc train ...`)."""

from mvc.cli.main import main

if __name__ == "__main__":
    main()
