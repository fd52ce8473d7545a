from understudy.envs.sources.minari import source as source  # registers it
