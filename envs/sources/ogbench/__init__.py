from understudy.envs.sources.ogbench import source as source  # registers it
