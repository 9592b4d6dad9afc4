"""The notebook widget: the only room that knows of notebooks."""
