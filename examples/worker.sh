#!/bin/sh
# The worker of quickstart.toml: one order on standard input, one line in a ledger, an exit code that says how it went.
#
#   0   done
#   65  this order never will be: it is malformed           (sysexits.h: data error)   -> dead letter at once
#   69  the warehouse is closed: no order can be done now   (sysexits.h: unavailable)  -> wait, nothing counts
#   75  this order may work later                           (sysexits.h: temporary)    -> another attempt
#
# Break it:  OUT_OF_STOCK=teapot   fails every order for teapots
#            WAREHOUSE=closed      fails them all
set -eu

order=$(cat)

# field NAME: its value in the order's JSON, without quotes.
field() { printf '%s\n' "$order" | sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p"; }

[ "${WAREHOUSE:-open}" = open ] || { echo "the warehouse is closed" >&2; exit 69; }

number=$(field order) item=$(field item) quantity=$(field quantity) cents=$(field cents)
case $quantity in
'' | *[!0-9]*) echo "order $number: quantity \"$quantity\" is not a number" >&2; exit 65 ;;
esac

if [ "$item" = "${OUT_OF_STOCK:-}" ]; then
    echo "order $number: $item is out of stock" >&2
    exit 75
fi
# The tray stands on the top shelf: nobody reaches it the first time.
if [ "$number" = A-1007 ] && [ "$DISPATCH_ATTEMPT" = 1 ]; then
    echo "order $number: no ladder free" >&2
    exit 75
fi

# A short line written in one go is never mixed with another's.
printf '%s\t%s x %s\t%s.%02d\tattempt %s\n' \
    "$number" "$quantity" "$item" "$((cents / 100))" "$((cents % 100))" "$DISPATCH_ATTEMPT" >>"${LEDGER:-ledger.tsv}"
echo "shipped $number"
