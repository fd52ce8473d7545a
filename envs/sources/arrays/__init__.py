from understudy.envs.sources.arrays import source as source  # registers it
