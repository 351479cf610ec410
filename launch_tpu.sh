#!/usr/bin/env bash
# Runs tgvlm on Cloud TPUs: asks for machines, installs, starts, follows, and starts again what a
# preemption ended. `launch_tpu.sh help` explains it, docs/tpu.md says more.
#
# The same file works on both sides. Here it calls gcloud; on a TPU's machines (`on-worker ...`) it
# installs this checkout and keeps one process, with its log and exit status in run/.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
PREEMPTED=143 # `tgvlm train` after SIGTERM: the state is saved, the same command continues it
MISUSED=2     # `tgvlm` was asked for something that it cannot do; again would not help
SILENT=100    # nobody answers
PATIENCE=10   # looks at machines that do not answer, until others are asked for
COPIED=(tgvlm_jax configs pyproject.toml setup.py requirements.lock README.md LICENSE NOTICE
  launch_tpu.sh)

help() {
  cat <<'TEXT'
launch_tpu.sh COMMAND NAME [options] [-- tgvlm's words]

  create   ask for TPUs (a queued resource); nothing if NAME is there, anew if it was lost
  setup    wait for them, copy the package and configs/ as they are now, install them everywhere
  run      all of the above, then start tgvlm on every machine and follow it to its end; what a
           preemption or a lost machine ends is started again. Ctrl-C only stops following: the
           same command follows on
  status   what there is and what it does
  logs     the last lines of a machine's log
  stop     SIGTERM: the run saves its state and ends; run continues it
  delete   give the TPUs back
  help     this text

  --topology T   chip and shape, as in tgvlm plan: v4:2x2x1, v5e:4x4, v5p:2x2x4, v6e:4x4
  --slices N     so many of them, joined by the data centre's network (1)
  --spot         machines that cost less and may be taken away at any time
  --bucket B     Cloud Storage bucket, to be mounted as bucket/ on every machine
  --zone Z, --project P   gcloud's own defaults if none
  --runtime V    software of the machines (that of the chip if none)
  --retries N    how often run starts again after a crash (3); preemptions do not count
  --poll S       seconds between two looks (60)
  --detach       run: do not follow
  --slice I, --worker I, --follow   logs: of which slice and machine (0, 0), and go on
  --dry-run      print every command, run none; what is asked is taken to be answered well

Example: shards are in gs://my-bucket/shards, and the run is to end up beside them.

  ./launch_tpu.sh run d2vlm --topology v5e:4x4 --spot --zone us-west4-a --bucket my-bucket \
      -- train --config configs/d2vlm_sft.py --config.data.shards=bucket/shards \
      --workdir bucket/runs/d2vlm
  ./launch_tpu.sh delete d2vlm --zone us-west4-a
TEXT
}

fail() {
  echo "launch_tpu.sh: error: $*" >&2
  exit "$MISUSED"
}

say() { echo "launch_tpu.sh: $*" >&2; }

# ------------------------------------------------------------------------------ words

quoted() { # words as a shell reads them
  local word line="" single="'\\''"
  for word in "$@"; do
    [[ "$word" =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="'${word//\'/$single}'"
    line="$line $word"
  done
  echo "${line# }"
}

act() { # runs a command, or shows it
  if [[ $dry ]]; then quoted "$@" >&3; else "$@"; fi
}

parse() {
  dry="" topology="" slices=1 spot="" bucket="" runtime="" retries=3 poll=60 detach=""
  slice=0 worker=0 follow="" where=() words=() patient=""
  while (($#)); do
    case "$1" in
      --topology | --slices | --bucket | --runtime | --retries | --poll | --slice | --worker)
        [[ $# -gt 1 && "$2" != --* ]] || fail "$1 needs a value"
        printf -v "${1#--}" %s "$2"
        shift
        ;;
      --zone | --project)
        [[ $# -gt 1 && "$2" != --* ]] || fail "$1 needs a value"
        where+=("$1=$2")
        shift
        ;;
      --spot | --detach | --follow) printf -v "${1#--}" yes ;;
      --dry-run) dry=yes ;;
      --)
        shift
        words=("$@")
        break
        ;;
      *) fail "unknown option '$1'; launch_tpu.sh help lists them" ;;
    esac
    shift
  done
  local number
  for number in "$slices" "$retries" "$slice" "$worker"; do
    [[ "$number" =~ ^[0-9]+$ ]] || fail "'$number' must be a whole number"
  done
  ((slices > 0)) || fail "--slices must be at least 1"
  where+=(--quiet)
}

# ----------------------------------------------------------------- the queued resource

state() { # of the queued resource, ABSENT if there is none; $1 is what a dry run takes it to be
  local found missed=0 look=(gcloud compute tpus queued-resources list "--filter=name~/$name\$"
    "--format=value(state.state)" "${where[@]}")
  if [[ $dry ]]; then
    quoted "${look[@]}" >&3
    echo "$1"
    return
  fi
  until found="$("${look[@]}")"; do # a run of days outlives a network that is gone for minutes
    [[ $patient ]] && ((missed++ < 30)) || return 1
    sleep "$poll"
  done
  echo "${found:-ABSENT}"
}

nodes() { # names of the slices
  local number
  if ((slices == 1)); then
    echo "$name"
  else
    for ((number = 0; number < slices; number++)); do echo "$name-$number"; done
  fi
}

remove() { act gcloud compute tpus queued-resources delete "$name" --force "${where[@]}"; }

create() {
  [[ $topology ]] || fail "--topology is missing, such as v5e:4x4"
  local found chip="${topology%%:*}" default side chips=1 kind
  [[ "$topology" =~ ^[a-z0-9]+:[0-9]+(x[0-9]+)+$ ]] ||
    fail "--topology $topology: give such as v5e:4x4"
  for side in $(tr x ' ' <<< "${topology#*:}"); do chips=$((chips * side)); done
  case "$chip" in # v4 and v5p are counted in cores, two a chip
    v4) kind=v4-$((2 * chips)) default=tpu-ubuntu2204-base ;;
    v5e) kind=v5litepod-$chips default=v2-alpha-tpuv5-lite ;;
    v5p) kind=v5p-$((2 * chips)) default=v2-alpha-tpuv5 ;;
    v6e) kind=v6e-$chips default=v2-alpha-tpuv6e ;;
    *) fail "--topology $topology: v4, v5e, v5p and v6e come this way; see docs/tpu.md" ;;
  esac
  found="$(state ABSENT)"
  while [[ "$found" == DELETING || "$found" == SUSPENDING ]]; do
    sleep "$poll"
    found="$(state ABSENT)"
  done
  case "$found" in
    ABSENT) ;;
    SUSPENDED | FAILED)
      say "$name is $found; asking again"
      remove
      ;;
    *)
      say "$name is there: $found"
      return
      ;;
  esac
  local request=(gcloud compute tpus queued-resources create "$name")
  if ((slices == 1)); then
    request+=("--node-id=$name")
  else
    request+=("--node-count=$slices" "--node-prefix=$name")
  fi
  request+=("--accelerator-type=$kind" "--runtime-version=${runtime:-$default}")
  [[ ! $spot ]] || request+=(--spot)
  act "${request[@]}" --async "${where[@]}"
}

arrived() { # waits for the machines; false if they were lost before they came
  local found="" before
  while :; do
    before="$found"
    found="$(state ACTIVE)"
    [[ "$found" == "$before" ]] || say "$name is $found"
    case "$found" in
      ACTIVE) return 0 ;;
      SUSPENDING | SUSPENDED | FAILED | DELETING) return 1 ;;
      ABSENT) fail "there is no $name; create it first" ;;
    esac
    sleep "$poll"
  done
}

# ------------------------------------------------------------------------ its machines

everywhere() { # a command on all machines of all slices, at once; its status where one fails
  local node failed=0 pids=()
  for node in $(nodes); do
    if [[ $dry ]]; then
      act gcloud compute tpus tpu-vm ssh "$node" --worker=all "--command=$1" "${where[@]}"
    else
      gcloud compute tpus tpu-vm ssh "$node" --worker=all "--command=$1" "${where[@]}" &
      pids+=($!)
    fi
  done
  for node in ${pids[@]+"${pids[@]}"}; do wait "$node" || failed=$?; done
  return "$failed"
}

setup() { # its callers look at how it ends, so that errors do not end the script by themselves
  local node pack="build/launch/$name.tar.gz"
  act mkdir -p build/launch || return
  act tar -czf "$pack" --exclude=__pycache__ "${COPIED[@]}" || return
  for node in $(nodes); do
    act gcloud compute tpus tpu-vm scp "$pack" "$node:tgvlm.tar.gz" --worker=all "${where[@]}" ||
      return
  done
  local install="tgvlm/launch_tpu.sh on-worker setup${bucket:+ $(quoted "$bucket")}"
  everywhere "mkdir -p tgvlm && tar -xzf tgvlm.tar.gz -C tgvlm && $install"
}

progress() { # of all machines: running, exit N, stopped, ready, fresh (nothing there), unreachable
  local said
  said="$(everywhere "tgvlm/launch_tpu.sh on-worker status || echo worker: fresh")" || {
    echo unreachable
    return
  }
  [[ ! $dry ]] || said="worker: ${1:-exit 0}"
  said="$(sed -n 's/^worker: //p' <<< "$said" | sort -u)"
  local sought
  for sought in stopped "exit $PREEMPTED" 'exit [1-9].*' fresh ready running 'exit 0'; do
    if grep -qx "$sought" <<< "$said"; then
      grep -xm1 "$sought" <<< "$said"
      return
    fi
  done
  echo unreachable
}

start() { # $1: start, or restart what may still run
  everywhere "$(quoted tgvlm/launch_tpu.sh on-worker "$1" -- "${words[@]}")"
}

# -------------------------------------------------------------------------------- run

check_words() {
  ((${#words[@]})) || fail "say what to run: ... -- train --config FILE --workdir DIR"
  local word before="" workdir=""
  for word in "${words[@]}"; do
    [[ "$before" != --workdir ]] || workdir="$word"
    [[ "$word" != --workdir=* ]] || workdir="${word#--workdir=}"
    before="$word"
  done
  if [[ $spot && ! $bucket ]]; then
    fail "a spot machine takes its disk along when it goes: give --bucket"
  elif [[ $bucket && "$workdir" != bucket/* ]]; then
    fail "--workdir '$workdir' would be lost with the machine: put it below bucket/"
  fi
}

run() {
  check_words
  local crashes=0 how=start now code
  while :; do
    create
    patient=yes
    arrived || continue
    code=0
    started "$how" || code=$?
    if ((code)); then
      now="$(lasting "exit $code")"
      sleep "$poll"
    elif [[ $detach ]]; then
      return 0
    else
      now="$(followed)"
      how=restart # what a crash has left on other machines must not go on
    fi
    case "$now" in
      "exit 0")
        say "$name: done; give it back with: launch_tpu.sh delete $name"
        return 0
        ;;
      stopped)
        say "$name: stopped, its state is saved"
        return 0
        ;;
      gone) # nobody took them away, and yet nobody is there
        say "$name: its machines do not answer; asking for others"
        remove
        ;;
      lost | "exit $PREEMPTED") say "$name: preempted; going on when there are machines" ;;
      *)
        code="${now#exit }"
        crashes=$((crashes + 1))
        if [[ "$code" == "$MISUSED" ]] || ((crashes > retries)); then
          say "$name: ended with status $code; look: launch_tpu.sh logs $name"
          return "$code"
        fi
        say "$name: ended with status $code; starting again ($crashes of $retries)"
        ;;
    esac
  done
}

started() { # installs where nothing is yet, and starts; false if it did not work
  local now silent=0
  now="$(progress fresh)"
  while [[ "$now" == unreachable ]] && ((++silent < PATIENCE)); do # new machines take their time
    sleep "$poll"
    now="$(progress fresh)"
  done
  [[ "$now" != unreachable ]] || return "$SILENT"
  [[ "$now" != fresh ]] || setup || return
  start "$1"
}

followed() { # looks until something ends; says how: exit N, stopped, lost, gone
  local now silent=0
  while :; do
    now="$(progress)"
    case "$now" in
      running | ready) silent=0 ;;
      unreachable) silent=$((silent + 1)) ;;
      fresh) now="exit $PREEMPTED" ;;
    esac
    case "$now" in
      unreachable | exit\ [1-9]*) now="$(lasting "$now" "$silent")" ;;
    esac
    case "$now" in
      running | ready | unreachable) sleep "$poll" ;;
      *)
        echo "$now"
        return
        ;;
    esac
  done
}

lasting() { # what an end is if the machines are still there: the same, lost, or gone
  local now="$1" silent="${2:-0}" found
  [[ "$now" != "exit $SILENT" ]] || silent=$PATIENCE
  found="$(state ACTIVE)" || found=unknown
  case "$found" in
    ACTIVE) # without a bucket the state of the run would go with them
      if [[ $bucket ]] && ((silent >= PATIENCE)); then now=gone; fi
      ;;
    unknown) ;;
    *) now=lost ;;
  esac
  echo "$now"
}

show_status() {
  local found
  found="$(state ACTIVE)"
  say "$name is $found"
  if [[ "$found" == ACTIVE ]]; then
    everywhere "hostname; tgvlm/launch_tpu.sh on-worker status || echo worker: fresh"
  fi
}

logs() {
  local node="$name"
  ((slices == 1)) || node="$name-$slice"
  act gcloud compute tpus tpu-vm ssh "$node" "--worker=$worker" \
    "--command=tail -n 100 ${follow:+-F }tgvlm/run/log" "${where[@]}"
}

delete() {
  if [[ "$(state ACTIVE)" == ABSENT ]]; then say "there is no $name"; else remove; fi
}

# --------------------------------------------------------------- on a machine of the TPU

pid() { # of the process that is kept, if it is there
  local found
  found="$(cat run/pid 2> /dev/null)" || return
  grep -aqs launch_tpu.sh "/proc/$found/cmdline" && echo "$found"
}

worker_setup() { # a bucket, or nothing
  local uv="$HOME/.local/bin/uv"
  mkdir -p run
  rm -f run/installed
  ! command -v uv > /dev/null || uv=uv
  [[ "$uv" == uv || -x "$uv" ]] || python3 -m pip install --quiet --user uv
  [[ -x .venv/bin/python ]] || "$uv" venv --quiet --python 3.11 .venv
  "$uv" pip install --quiet --python .venv/bin/python -c requirements.lock -e '.[tpu]'
  [[ $# -eq 0 ]] || mountpoint -q bucket || {
    command -v gcsfuse > /dev/null || sudo apt-get install -qq -y gcsfuse > /dev/null ||
      fail "gcsfuse is not there and cannot be installed; take a --runtime that has it"
    mkdir -p bucket
    gcsfuse --implicit-dirs "$1" bucket > /dev/null
  }
  echo "$@" > run/installed
}

worker_start() { # start or restart, --, tgvlm's words
  local kind="$1" asked
  shift 2
  asked="$(quoted "$@")"
  mkdir -p run
  if pid > /dev/null && [[ "$kind" == restart ]]; then
    worker_stop
  elif pid > /dev/null; then
    [[ "$(cat run/words)" == "$asked" ]] || fail "something else runs here: $(cat run/words)"
    say "runs already"
    return
  elif [[ "$(cat run/words run/status 2> /dev/null)" == "$asked"$'\n'0 ]]; then
    say "is done already"
    return
  fi
  rm -f run/stopped run/status
  echo "$asked" > run/words
  setsid nohup "$ROOT/launch_tpu.sh" on-worker keep -- "$@" >> run/log 2>&1 3>&- < /dev/null &
  echo $! > run/pid
}

worker_keep() { # runs tgvlm; hands SIGTERM on and leaves its exit status
  shift
  local child code=0
  trap 'kill -TERM "$child" 2> /dev/null || true' TERM
  PYTHONUNBUFFERED=1 .venv/bin/tgvlm "$@" &
  child=$!
  wait "$child" || code=$?
  while kill -0 "$child" 2> /dev/null; do # the trap ended the wait, not the process
    code=0
    wait "$child" || code=$?
  done
  echo "$code" > run/status.part
  mv run/status.part run/status
}

worker_stop() {
  local found patience=600
  found="$(pid)" || return 0
  kill -TERM "$found"
  while pid > /dev/null && ((patience-- > 0)); do sleep 1; done
  ! pid > /dev/null || kill -KILL -- "-$found"
}

worker_status() {
  if pid > /dev/null; then
    echo "worker: running"
  elif [[ ! -e run/installed ]] || { [[ $(cat run/installed) ]] && ! mountpoint -q bucket; }; then
    echo "worker: fresh"
  elif [[ -e run/stopped ]]; then
    echo "worker: stopped"
  elif [[ -e run/status ]]; then
    echo "worker: exit $(cat run/status)"
  elif [[ -e run/pid ]]; then
    echo "worker: exit 137" # killed, with whatever kept it
  else
    echo "worker: ready"
  fi
}

on_worker() {
  cd "$ROOT"
  local what="$1"
  shift
  case "$what" in
    setup) worker_setup "$@" ;;
    start | restart) worker_start "$what" "$@" ;;
    keep) worker_keep "$@" ;;
    status) worker_status ;;
    stop)
      mkdir -p run
      touch run/stopped
      worker_stop
      worker_status
      ;;
    *) fail "on-worker: unknown '$what'" ;;
  esac
}

main() {
  local word
  for word in "$@"; do # --help helps wherever it stands, but not among tgvlm's words
    [[ "$word" != -- && "${1:-}" != on-worker ]] || break
    [[ "$word" != -h && "$word" != --help ]] || set -- help
  done
  case "${1:-help}" in
    help)
      help
      return
      ;;
    on-worker)
      shift
      on_worker "$@"
      return
      ;;
    create | setup | run | status | logs | stop | delete) ;;
    *) fail "unknown command '$1'; launch_tpu.sh help lists them" ;;
  esac
  local command="$1" name="${2:-}"
  [[ "$name" =~ ^[a-z]([-a-z0-9]{0,40}[a-z0-9])?$ ]] ||
    fail "$command needs a NAME of small letters, digits and hyphens, found '$name'"
  shift 2
  parse "$@"
  exec 3>&1
  cd "$ROOT"
  [[ $dry ]] || command -v gcloud > /dev/null ||
    fail "gcloud is not there: install the Google Cloud CLI"
  case "$command" in
    create) create ;;
    setup) arrived && setup ;;
    run) run ;;
    status) show_status ;;
    logs) logs ;;
    stop) everywhere "tgvlm/launch_tpu.sh on-worker stop" ;;
    delete) delete ;;
  esac
}

main "$@"
