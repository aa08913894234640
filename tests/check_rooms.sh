#!/usr/bin/env bash
# Who may include whom (docs/design.md, "Rooms"): greps for breaches.
set -u
cd "$(dirname "$0")/.."
breaches=0

# forbid WHERE PATTERN WHY [EXCEPT]: no file of WHERE may include PATTERN.
forbid() {
    local found
    found=$(grep -rnE --include='*.[ch]' --include='*.cpp' "^ *# *include +[<\"]($2)" $1 2>/dev/null | grep -vE "${4:-^$}")
    [ -z "$found" ] && return 0
    printf '%s\n%s\n\n' "$3:" "$found"
    breaches=1
}

forbid server        'engine/(model|text|graph|task|routing|cpu|backend|engine)' 'server/ sees engine/moe.h only'
forbid engine/graph  'engine/cpu'                       'graph/ calls backend.h, never a kernel'
forbid engine/cpu    'engine/(graph|task|text|engine\.h)' 'cpu/ knows nothing of graphs, tasks or text'
forbid engine/text   'engine/(graph|cpu|routing|task)'  'text/ knows only text'
forbid engine        '(server|convert)/'                'engine/ knows neither program'
forbid 'engine server' 'metis|cblas|openblas'           'METIS and OpenBLAS live in convert/'
forbid convert       'metis'                            'METIS has one home'    '^convert/metis\.c'
forbid convert       'cblas|openblas|lapack'            'OpenBLAS has one home' '^convert/blas\.c'
forbid 'engine convert' 'microhttpd'                    'libmicrohttpd lives in server/'
forbid server        'microhttpd'                       'libmicrohttpd has one home' '^server/http\.c'
forbid server        'cjson'                            'cJSON has one home in server/' '^server/json\.[ch]'
forbid convert       'cjson'                            'cJSON has one home in convert/' '^convert/json\.[ch]'
forbid engine        'cjson'                            'cJSON lives in engine/model/' '^engine/model/'
forbid 'engine convert server' 'sentencepiece_'          'SentencePiece has one home' '^engine/text/sentencepiece\.cpp'
forbid 'engine convert server' 'utf8proc'               'utf8proc lives in engine/text/' '^engine/text/'

exit $breaches
