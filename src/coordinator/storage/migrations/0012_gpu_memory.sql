-- What a miner's heartbeat said last of the free memory of its GPUs: {"at": …, "gpus": […]}.

ALTER TABLE live_sessions ADD COLUMN gpu_memory_json text;
