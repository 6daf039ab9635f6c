"""Uses finished runs: load, predict, chat, export, onboard a newcomer, serve.

Federated training does not belong here. Test rows of a run are read only to measure exported models.
"""
