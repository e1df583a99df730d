-- Reads a version of a prompt, or the latest if `wanted` is empty.
-- Answers {version, JSON}; false if there is no such version.
local prompt = KEYS[1]
local wanted = ARGV[1]

local version = wanted ~= '' and wanted or redis.call('HGET', prompt, 'latest')
if not version then return false end
local json = redis.call('HGET', prompt, version)
if not json then return false end
return {tonumber(version), json}
