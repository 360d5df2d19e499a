"""The session pipeline's rooms: recorder, processor, storage, pipeline."""
