from understudy.envs.sources.robomimic import source as source  # registers it
