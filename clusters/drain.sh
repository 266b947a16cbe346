#!/bin/bash
# A worker pod's preStop hook: Kubernetes ends pods with SIGTERM, which Ray does not take as a notice (kuberay#5004).
# Tells Ray that this node goes in $1 seconds, so that no task is placed here and training saves a checkpoint,
# then holds the pod until Ray has left the node or the time is over. A head that does not answer is not waited for.
set -u
seconds="${1:-100}"
deadline=$((SECONDS + seconds))
timeout "${2:-20}" ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "the pod is being ended" \
  --deadline-remaining-seconds "$seconds" || exit 0
while ((SECONDS < deadline)) && grep -qsx raylet /proc/[0-9]*/comm; do
  sleep 1
done
