# Reads one top-level key (`want`) of simple YAML, or JSON on any number of lines, and prints its scalar value
# (`what=value`) or every SSH public key below it (`what=keys`; lists, maps and JSON alike).
{
    sub(/\r$/, "")
    # JSON becomes one line a key.
    if (NR == 1 && /^ *[{]/) json = 1
    if (json) gsub(/[{,] *"[A-Za-z_-]+" *:/, "\n&")
    count = split($0, line, "\n")
    for (i = 1; i <= count; i++) read(line[i])
}
function read(text,    name, quote) {
    if (json) { sub(/^[ {,]*/, "", text); if (text ~ /^"[A-Za-z_-]+" *:/) { sub(/^"/, "", text); sub(/" *:/, ":", text) } }
    if (text ~ /^[A-Za-z_-]+:/) {
        name = text; sub(/:.*/, "", name)
        # Names of keys in a JSON map look like top-level keys: those that follow a wanted one with keys belong to it.
        if (!(json && inside && what == "keys" && text ~ /(ssh-|ecdsa-|sk-)[^ ]* +AAAA/)) inside = (name == want)
        if (inside && what == "value" && name == want) {
            sub(/^[^:]*: */, "", text)
            if (json) sub(/ *[,}] *$/, "", text)
            quote = substr(text, 1, 1)
            if (quote == "\"" || quote == "'") { text = substr(text, 2); sub(quote ".*", "", text) } else sub(/ +#.*/, "", text)
            sub(/ +$/, "", text)
            print text
            exit
        }
    }
    if (inside && what == "keys") print_keys(text)
}
function print_keys(text) {
    while (match(text, /(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ +AAAA[A-Za-z0-9+\/=]+[^]"',}]*/)) {
        key = substr(text, RSTART, RLENGTH)
        text = substr(text, RSTART + RLENGTH)
        sub(/ +$/, "", key)
        print key
    }
}
