#!/bin/bash
# Settings and helpers that the commands of this folder share; sourced, never run.
# shellcheck disable=SC2034  # the settings are read by the scripts that source this file

set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
BASE=${DEVCLUSTER_BASE:-${TMPDIR:-/tmp}/hpcscale-devcluster}
PORT=${DEVCLUSTER_PORT:-16817}
WANTED_MODE=${DEVCLUSTER_MODE:-auto}
NODES=(node1 node2 node3)
BRIDGE=devcluster0
CONF=$BASE/etc/slurm.conf
MARKER=$BASE/.devcluster

say() { printf '%s\n' "$*"; }
die() {
  printf 'devcluster: %s\n' "$*" >&2
  exit 1
}

need_root() { ((EUID == 0)) || die "needs root (this is user $(id -un)); run it with sudo or as root in a container"; }
need_up() { [[ -f $MARKER ]] || die "no cluster in $BASE; start one with $HERE/up, or set DEVCLUSTER_BASE to where it is"; }
need_node() {
  local node
  for node in "${NODES[@]}"; do [[ $1 == "$node" ]] && return; done
  die "no node '$1'; the nodes are ${NODES[*]}"
}

mode() { cat "$BASE/run/mode"; }
node_number() { printf '%s\n' "${1#node}"; }
host_address() { if [[ $1 == netns ]]; then echo 198.18.0.1; else echo 127.0.0.1; fi; }

# --- processes -----------------------------------------------------------------------------------
# A pid file holds "PID START", so that a number that the system gave to somebody else is never hit.

started_at() {
  local stat fields
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  read -ra fields <<<"${stat##*) }"  # the process name, which may hold blanks, is skipped
  [[ ${fields[0]} != Z ]] && printf '%s\n' "${fields[19]}"
}

alive() {
  local pid start
  read -r pid start 2>/dev/null <"$BASE/run/$1.pid" || return 1
  [[ $(started_at "$pid") == "$start" ]]
}

# spawn NAME COMMAND...: in the background, in a session of its own, with its output in log/NAME.out
spawn() {
  local name=$1 pid
  shift
  setsid "$@" </dev/null >>"$BASE/log/$name.out" 2>&1 &
  pid=$!
  disown
  printf '%s %s\n' "$pid" "$(started_at "$pid")" >"$BASE/run/$name.pid"
}

# stop NAME [SIGNAL]: at once (KILL) unless told otherwise
stop() {
  local pid
  if alive "$1"; then
    read -r pid _ <"$BASE/run/$1.pid"
    kill "-${2:-KILL}" "$pid" 2>/dev/null || true
    until_true 10 dead "$1" || die "$1 (process $pid) does not end"
  fi
  rm -f "$BASE/run/$1.pid"
}
dead() { ! alive "$1"; }

# until_true SECONDS COMMAND...: asks ten times a second
until_true() {
  local tries=$(($1 * 10))
  shift
  while ! "$@" >/dev/null 2>&1; do
    ((tries-- > 0)) || return 1
    sleep 0.1
  done
}

# failed NAME TEXT: says which daemon, shows the end of what it wrote, stops the rest
failed() {
  local file
  printf 'devcluster: %s: %s\n' "$1" "$2" >&2
  for file in "$BASE/log/$1.log" "$BASE/log/$1.out"; do
    [[ -s $file ]] || continue
    printf -- '--- end of %s\n' "$file" >&2
    tail -n 15 "$file" >&2
    break
  done
  "$HERE/down" --keep-logs >&2 || true
  exit 1
}

# wait_for NAME SECONDS COMMAND...: until the command succeeds; fails at once where NAME has died
wait_for() {
  local name=$1 tries=$(($2 * 10))
  shift 2
  while ! "$@" >/dev/null 2>&1; do
    alive "$name" || failed "$name" "ended while it was starting"
    ((tries-- > 0)) || failed "$name" "did not get ready in time"
    sleep 0.1
  done
}

# --- controller ----------------------------------------------------------------------------------

start_controller() {
  spawn slurmctld slurmctld -D -f "$CONF"
  wait_for slurmctld 20 controller_answers
}
controller_answers() { SLURM_CONF=$CONF timeout 2 scontrol ping | grep -q 'is UP'; }

# --- nodes ---------------------------------------------------------------------------------------

start_node() {
  if [[ $(mode) == netns ]]; then start_netns_node "$1"; else start_flat_node "$1"; fi
}
kill_node() {
  stop "$1"
  [[ $(mode) == netns ]] || kill_flat_tasks "$1"
}

# The namespaces live as long as the node's first process: killing it takes the whole node away.
start_netns_node() {
  local node=$1 number pid link
  number=$(node_number "$node")
  link=devcluster$number
  ip link del "$link" 2>/dev/null || true
  spawn "$node" unshare --net --uts --ipc --mount --pid --fork --kill-child --mount-proc \
    "$HERE/node-init" "$node" "198.18.0.1$number" "$BASE"
  read -r pid _ <"$BASE/run/$node.pid"
  until_true 5 own_network "$pid" || failed "$node" "has no network namespace"
  ip link add "$link" type veth peer name eth0 netns "$pid" || failed "$node" "cannot be connected"
  ip link set "$link" master "$BRIDGE" up
}
own_network() { [[ $(readlink "/proc/$1/ns/net") != "$(readlink /proc/self/ns/net)" ]]; }

start_flat_node() { spawn "$1" slurmd -D -f "$CONF" -N "$1"; }

# Without a pid namespace a node's tasks are known by the environment that slurmd gives them, and its
# slurmstepds by the log file that they hold open. A dying stepd may still be starting a task: repeated
# until none is left.
kill_flat_tasks() {
  local round pids
  for round in 1 2 3 4 5; do
    pids=$(flat_tasks "$1" | sort -u)
    [[ -n $pids ]] || return 0
    xargs kill -KILL <<<"$pids" 2>/dev/null || true
  done
}
flat_tasks() {
  local file
  { grep -lzxF "SLURMD_NODENAME=$1" /proc/[0-9]*/environ 2>/dev/null || true; } | while read -r file; do
    grep -qzxF "SLURM_CONF=$CONF" "$file" 2>/dev/null && cut -d/ -f3 <<<"$file"
  done
  { find /proc/[0-9]*/fd -lname "$BASE/log/$1.log" 2>/dev/null || true; } | cut -d/ -f3 | while read -r file; do
    [[ $(cat "/proc/$file/comm" 2>/dev/null) == slurmstepd ]] && echo "$file"
  done
  return 0
}
