-- Charges a tenant with `more` bytes for an object, unless a bound would be exceeded.
-- Answers 0 if the tenant is charged, otherwise the exceeded bound: 1 the tenant's bytes, 2 its responses, 3 the key's bytes.
local more, keep_ms, responses, key = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local max_bytes, max_responses, max_key_bytes = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])

local bytes, counted = find(object)
if total('#bytes') + more > max_bytes then return 1 end
if total('#responses') - counted + responses > max_responses then return 2 end
if key ~= '' and total('#key:' .. key) + more > max_key_bytes then return 3 end
put(object, bytes + more, responses, key, keep_ms)
return 0
