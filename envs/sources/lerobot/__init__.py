from understudy.envs.sources.lerobot import source as source  # registers it
