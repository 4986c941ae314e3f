# Splits MIME multipart text into NNN.head and NNN.body below `folder` (RFC 2046 §5.1).
# Only the outermost level: a part that is multipart itself is handed back whole.
{ sub(/\r$/, "") }

# Headers of the whole text, until the first blank line; folded lines belong to the one before.
!in_parts && boundary == "" {
    if (match($0, /[Bb][Oo][Uu][Nn][Dd][Aa][Rr][Yy]=/)) {
        boundary = substr($0, RSTART + RLENGTH)
        if (substr(boundary, 1, 1) == "\"") { boundary = substr(boundary, 2); sub(/".*/, "", boundary) }
        else sub(/[; \t].*/, "", boundary)
    }
    next
}

$0 == "--" boundary "--" { exit }
$0 == "--" boundary {
    in_parts = 1
    number = sprintf("%03d", ++parts)
    heading = 1
    head = folder "/" number ".head"
    body = folder "/" number ".body"
    printf "" > head
    printf "" > body
    next
}
!in_parts { next }
heading && $0 == "" { heading = 0; next }
heading && /^[ \t]/ { printf " %s", $0 >> head; next }
heading { printf "\n%s", $0 >> head; next }
{ print >> body }
