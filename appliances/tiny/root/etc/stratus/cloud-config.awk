# Reads the block style of #cloud-config that people write and turns it into shell scripts below `folder`:
# `runcmd` (strings, flow lists, literal blocks) and `write_files` (path, content, encoding, permissions).
# Prints the top-level keys that it has no answer for.
function quote(text) { gsub(/'/, "'\\''", text); return "'" text "'" }
function indent_of(line) { match(line, /^ */); return RLENGTH }
function trim(text) { sub(/^[ \t]+/, "", text); sub(/[ \t]+$/, "", text); return text }
# A scalar without its YAML quotes.
function scalar(text) {
    text = trim(text)
    if (text ~ /^".*"$/) { text = substr(text, 2, length(text) - 2); gsub(/\\"/, "\"", text); gsub(/\\\\/, "\\", text) }
    else if (text ~ /^'.*'$/) { text = substr(text, 2, length(text) - 2); gsub(/''/, "'", text) }
    else sub(/ +#.*$/, "", text)
    return text
}
# [a, "b c", 'd'] as quoted words. A comma inside quotes does not separate.
function words(list,    out, i, c, quoted, word) {
    list = trim(list); sub(/^\[/, "", list); sub(/\]$/, "", list)
    for (i = 1; i <= length(list) + 1; i++) {
        c = substr(list, i, 1)
        if (c == "" || (c == "," && quoted == "")) {
            if (trim(word) != "") out = out quote(scalar(word)) " "
            word = ""
            continue
        }
        if (quoted == "" && (c == "\"" || c == "'")) quoted = c
        else if (c == quoted) quoted = ""
        word = word c
    }
    return out
}
function emit_command(text) { print text > (folder "/runcmd") }
function end_list() { if (list != "") emit_command(list); list = "" }
function end_block() {
    if (!blocking) return
    blocking = 0
    if (section == "runcmd") emit_command(block)
    else field["content"] = block
}
function end_file(    decode) {
    if (field["path"] != "") {
        out = folder "/write_files"
        decode = field["encoding"]
        print "mkdir -p \"$(dirname " quote(field["path"]) ")\"" > out
        printf "printf %%s %s", quote(field["content"]) > out
        if (decode ~ /b64|base64/) printf " | base64 -d" > out
        if (decode ~ /gz/) printf " | gunzip -c" > out
        print (field["append"] == "true" ? " >>" : " >") quote(field["path"]) > out
        if (field["permissions"] != "") print "chmod " quote(field["permissions"]) " " quote(field["path"]) > out
        if (field["owner"] != "") print "chown " quote(field["owner"]) " " quote(field["path"]) > out
    }
    delete field
}
function take_field(text,    name, value) {
    name = text; sub(/:.*/, "", name); name = trim(name)
    value = text; sub(/^[^:]*: */, "", value)
    if (trim(value) ~ /^[|>][-+0-9]*$/) { begin_block(value); return }
    field[name] = scalar(value)
}
function begin_block(marker) {
    blocking = 1; block = ""; block_indent = -1
    folded = (trim(marker) ~ /^>/)
}

{ sub(/\r$/, "") }
# A literal block lasts as long as lines are indented deeper than what began it.
blocking {
    if ($0 ~ /^ *$/) { block = block "\n"; next }
    if (block_indent < 0 && indent_of($0) > owner_indent) block_indent = indent_of($0)
    if (block_indent >= 0 && indent_of($0) >= block_indent) {
        block = block substr($0, block_indent + 1) (folded ? " " : "\n")
        next
    }
    end_block()
}
/^ *(#|$)/ { next }
/^[A-Za-z_][A-Za-z0-9_-]*:/ {
    end_list(); end_file()
    section = $0; sub(/:.*/, "", section)
    if (section !~ /^(runcmd|write_files|ssh_authorized_keys|hostname|fqdn|preserve_hostname|manage_etc_hosts|disable_root|ssh_pwauth|final_message)$/) print section
    value = $0; sub(/^[^:]*: */, "", value)
    if (section == "runcmd" && value ~ /^\[/) {
        sub(/^\[ */, "", value); sub(/ *\] *$/, "", value)
        if (value ~ /^\[/) emit_command(words(value)); else if (value != "") emit_command(scalar(value))
    }
    next
}
section == "runcmd" {
    text = trim($0)
    if (text ~ /^- *- /) { end_list(); sub(/^- *- */, "", text); list = quote(scalar(text)); next }
    if (list != "" && indent_of($0) > item_indent && text ~ /^- /) { sub(/^- */, "", text); list = list " " quote(scalar(text)); next }
    if (text !~ /^-/) next
    end_list()
    item_indent = indent_of($0); owner_indent = item_indent
    sub(/^- */, "", text)
    if (text ~ /^[|>][-+0-9]*$/) begin_block(text)
    else if (text ~ /^\[/) emit_command(words(text))
    else emit_command(scalar(text))
}
section == "runcmd" && /^ *- *- / { item_indent = indent_of($0) }
section == "write_files" {
    text = trim($0)
    if (text ~ /^-/) { end_file(); owner_indent = indent_of($0); sub(/^- */, "", text) }
    if (text ~ /:/) take_field(text)
}
END { end_block(); end_list(); end_file() }
