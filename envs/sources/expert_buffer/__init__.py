from understudy.envs.sources.expert_buffer import source as source  # registers it
