# In every terminal: . ./env.sh
export FLWR_HOME="$PWD/.flwr"
# Nothing reports to anyone, and Flower installs nothing by itself.
export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
export RAY_USAGE_STATS_ENABLED=0 HF_HUB_DISABLE_TELEMETRY=1
