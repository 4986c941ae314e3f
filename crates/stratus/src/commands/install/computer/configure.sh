new=$file.new
cat >"$new"
if cmp -s "$new" "$file"; then
    rm -f "$new"
    echo same
elif [ -e "$file" ] && [ "$(head -n 1 "$file")" != "$mark" ] && grep -q '^[[:space:]]*[^#[:space:]]' "$file"; then
    rm -f "$new"
    echo own
else
    stratusd check-config --config "$new" >/dev/null || { rm -f "$new"; exit 1; }
    sync "$new"
    mv "$new" "$file"
    echo written
fi
