-- Replaces the metadata of a conversation.
-- Answers the state.
local metadata = ARGV[3]

if not known then return 0 end
redis.call('HSET', about, 'metadata', metadata)
keep()
return 1
