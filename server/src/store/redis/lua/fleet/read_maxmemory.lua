-- Answers `maxmemory` of the node with the script's key; 0 if it has no bound or the user may not run INFO.

local info = redis.pcall('INFO', 'memory')
return type(info) == 'string' and string.match(info, 'maxmemory:(%d+)') or '0'
