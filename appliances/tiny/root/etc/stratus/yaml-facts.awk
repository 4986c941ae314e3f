# Top-level scalars of simple YAML, or of JSON on any number of lines, as `NAME VALUE`, and every SSH public key
# below `public-keys` or `ssh_authorized_keys` (lists, maps and JSON alike) as `key SSH-KEY`.
{
    sub(/\r$/, "")
    # JSON becomes one line a key.
    if (NR == 1 && /^ *[{]/) json = 1
    if (json) gsub(/[{,] *"[A-Za-z_-]+" *:/, "\n&")
    count = split($0, line, "\n")
    for (i = 1; i <= count; i++) take(line[i])
}
function take(text,    name, quote, value) {
    if (json) { sub(/^[ {,]*/, "", text); if (text ~ /^"[A-Za-z_-]+" *:/) { sub(/^"/, "", text); sub(/" *:/, ":", text) } }
    if (text ~ /^[A-Za-z_-]+:/) {
        name = text; sub(/:.*/, "", name)
        # The names in a JSON map look like top-level keys: those that hold a key belong to the list before them.
        if (!(json && inside && text ~ /(ssh-|ecdsa-|sk-)[^ ]* +AAAA/)) inside = (name == "public-keys" || name == "ssh_authorized_keys")
        value = text; sub(/^[^:]*: */, "", value)
        if (json) sub(/ *[,}] *$/, "", value)
        quote = substr(value, 1, 1)
        if (quote == "\"" || quote == "'") { value = substr(value, 2); sub(quote ".*", "", value) } else sub(/ +#.*/, "", value)
        sub(/ +$/, "", value)
        if (!inside && value != "") print name, value
    }
    if (inside) print_keys(text)
}
function print_keys(text,    key) {
    while (match(text, /(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ +AAAA[A-Za-z0-9+\/=]+[^]"',}]*/)) {
        key = substr(text, RSTART, RLENGTH)
        text = substr(text, RSTART + RLENGTH)
        sub(/ +$/, "", key)
        print "key " key
    }
}
