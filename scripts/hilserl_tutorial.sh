#!/usr/bin/env bash
# The workflow of docs/hilserl/README.md, one step after another: record, ACT, reward classifier, HIL-SERL.
#
#   scripts/hilserl_tutorial.sh FOLDER [WORDS...]
#
# FOLDER gets everything; WORDS go to both halves of the last step. $RECORD, $ACT, $CLASSIFIER and $HILSERL hold more
# words for a step each, such as RECORD="control=scripted" where nobody sits at a gamepad.
set -euo pipefail
configs=$(cd "$(dirname "$0")/../docs/hilserl" && pwd)
folder=$(mkdir -p "$1" && cd "$1" && pwd)
shift
understudy=${UNDERSTUDY:-understudy}
data=env_name=lerobot:$folder/pick_cube
read -ra record <<< "${RECORD:-}"
read -ra act <<< "${ACT:-}"
read -ra classifier <<< "${CLASSIFIER:-}"
read -ra hilserl <<< "${HILSERL:-}"

newest() { # the run directory of a step
    dirname "$(find "$folder/$1" -name final_model.pt | sort | tail -1)"
}

$understudy record --config_path "$configs/env_config.json" root="$folder/pick_cube" "${record[@]}"
$understudy data info "lerobot:$folder/pick_cube"
$understudy train --config_path "$configs/train_config_act_bc.json" "$data" save_dir="$folder/act" "${act[@]}"
$understudy train --config_path "$configs/reward_classifier_train_config.json" "$data" \
    save_dir="$folder/classifier" "${classifier[@]}"

sed -e "s#/path/of/the/act/run#$(newest act)#" -e "s#/path/of/the/classifier/run#$(newest classifier)#" \
    "$configs/train_config_hilserl.json" > "$folder/train_config_hilserl.json"
words=(--config_path "$folder/train_config_hilserl.json" "$data" save_dir="$folder/hilserl" "${hilserl[@]}" "$@")
$understudy learner "${words[@]}" & # in a terminal of its own, usually
learner=$!
trap 'kill $learner 2> /dev/null || true' EXIT
$understudy actor "${words[@]}"
wait $learner
trap - EXIT
echo "the policy is in $(newest hilserl)"
