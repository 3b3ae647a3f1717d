# Completion of weirctl for bash. Readline cuts words at colons, which are a part of addresses: the words are read
# from the line instead, and of what is offered only the part behind the last cut is given back.
_weirctl() {
    local line=${COMP_LINE:0:COMP_POINT} words=() breaks=${COMP_WORDBREAKS//[^:=]/}
    read -r -a words <<<"$line"
    if [[ -z $line || $line == *[[:space:]] ]]; then
        words+=("")
    fi
    local last=$((${#words[@]} - 1))
    local current=${words[last]}
    mapfile -t COMPREPLY < <(
        VARIABLE=bash _CLAP_IFS=$'\n' _CLAP_COMPLETE_INDEX=$last _CLAP_COMPLETE_COMP_TYPE=$COMP_TYPE \
            NAME -- "${words[@]}"
    )
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} != *[=/:] ]]; then
        compopt +o nospace
    else
        compopt -o nospace
    fi
    if [[ -n $breaks && $current == *[$breaks]* ]]; then
        local before=${current%"${current##*[$breaks]}"}
        COMPREPLY=("${COMPREPLY[@]#"$before"}")
    fi
}
complete -o nospace -o nosort -F _weirctl NAME
