from understudy.envs.sources.gym_hil import source as source  # registers it
