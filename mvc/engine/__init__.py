"""Floor 1: torch, transformers, peft, trl. The only importer of them; never imports store."""
