"""The run as frozen pydantic models: read from YAML, checked completely, explained in the user's words.

Read `schema.py` for what a run file may say, `load.py` for how one is read, `deepspeed_json.py` for the files in
ds_configs/. Nothing here imports torch, MPI, DeepSpeed or transformers.
"""
