#!/bin/sh
# The hosts that there are now, for `horovodrun --host-discovery-script`: a line for each, with its
# slots. From a file here; a cluster's own tool would list them otherwise (SLURM's `scontrol show
# hostnames`, a cloud's API).
cat "${HOSTS:-hosts}"
