#!/bin/sh
# The guest's end of the command channel, on the second serial port.
#
#   guest -> host   @lab ready BOOT_ID
#   host -> guest   ID SECONDS SCRIPT_BYTES STDIN_BYTES, then the script, then its stdin
#   guest -> host   @lab done ID EXIT_CODE STDOUT_BYTES STDERR_BYTES, then stdout, then stderr
#
# Each line ends with a newline; what follows it is raw bytes.
tty=/dev/ttyS1
dir=/run/lab
mkdir -p $dir
stty -F $tty 115200 raw -echo
exec 3<>$tty
read -r boot </proc/sys/kernel/random/boot_id
echo "@lab ready $boot" >&3
while read -r id seconds script stdin <&3; do
    run=$dir/$id
    # `head` may read ahead: what belongs to one request is read at once and then split.
    head -c $((script + stdin)) <&3 >$run.script
    if [ "$stdin" -gt 0 ]; then
        tail -c "$stdin" $run.script >$run.stdin
        truncate -s "$script" $run.script
    else
        : >$run.stdin
    fi
    timeout -s KILL "$seconds" /usr/bin/sh $run.script <$run.stdin >$run.stdout 2>$run.stderr 3>&-
    code=$?
    set -- $(stat -c %s $run.stdout $run.stderr)
    # Exactly as many bytes as announced: a background process may still be writing.
    echo "@lab done $id $code $1 $2" >&3
    [ "$1" -gt 0 ] && head -c "$1" $run.stdout >&3
    [ "$2" -gt 0 ] && head -c "$2" $run.stderr >&3
    rm -f $run.*
done
