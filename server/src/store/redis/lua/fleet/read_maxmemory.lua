-- Answers `maxmemory` of the node that the script's key is in; 0 if nothing bounds it or the user may not ask for INFO.

local info = redis.pcall('INFO', 'memory')
return type(info) == 'string' and string.match(info, 'maxmemory:(%d+)') or '0'
