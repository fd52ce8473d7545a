from understudy.envs.sources.d4rl import source as source  # registers it
