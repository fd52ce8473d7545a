from understudy.envs.sources.bridge import source as source  # registers it
