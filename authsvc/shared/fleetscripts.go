package shared

// fleetScript is a replica's beat: it puts itself on the list, takes those off
// that are forgotten, and answers how many live, whether it was there before,
// the time, how many of the others have not beaten since a time, who has joined
// last, for how long the first lease of another still runs (0: there is none), the
// lists of users that others have put out, by their names, and whether the own list is
// stored.
//
// ARGV: id, about, lease, forgotten, that time (0: now), the name of the list of users
// that it puts out itself ("": of none), and the life of that. The field "+" of the
// second key is who has joined last. The lists' names are no names of users: many
// replicas have the same settings, and one list for all of them.
var fleetScript = newScript(clock + `
local me, life = ARGV[1], tonumber(ARGV[3])
for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[4]))) do
  redis.call('ZREM', KEYS[1], old)
  redis.call('HDEL', KEYS[2], old)
end
for _, wrong in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], now + life, '+inf')) do
  redis.call('ZREM', KEYS[1], wrong)
  redis.call('HDEL', KEYS[2], wrong)
end
local was = 0
if redis.call('ZSCORE', KEYS[1], me) then was = 1 end
redis.call('ZADD', KEYS[1], now, me)
redis.call('HSET', KEYS[2], me, ARGV[2])
if was == 0 then redis.call('HSET', KEYS[2], '+', me) end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[3], now + 2 * life, '+inf')
local own, stored = ARGV[6], 1
if own ~= '' then
  redis.call('ZADD', KEYS[3], now + life, own .. '|' .. me)
  stored = redis.call('PEXPIRE', KEYS[4], ARGV[7])
end
local out, known = {}, {}
for _, m in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  local name, r = string.match(m, '^(.*)|([^|]*)$')
  if r == me then
    if name ~= own then redis.call('ZREM', KEYS[3], m) end
  elseif name and not known[name] then
    known[name] = true
    out[#out + 1] = name
  end
end
local since = tonumber(ARGV[5])
if since == 0 then since = now end
local live = '(' .. string.format('%d', now - life)
local ignorant = redis.call('ZCOUNT', KEYS[1], live, string.format('%d', since))
if now <= since then ignorant = ignorant - 1 end
local newest, first = redis.call('HGET', KEYS[2], '+') or '', 0
local others = redis.call('ZRANGEBYSCORE', KEYS[1], live, '+inf', 'WITHSCORES', 'LIMIT', 0, 2)
for i = 1, #others, 2 do
  if others[i] ~= me and first == 0 then first = tonumber(others[i + 1]) + life - now end
end
return {redis.call('ZCOUNT', KEYS[1], live, '+inf'), was, string.format('%d', now), ignorant, first, newest, out, stored}
`)

// departScript takes a replica off the lists.
var departScript = newScript(`
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
for _, m in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  if string.match(m, '|([^|]*)$') == ARGV[1] then redis.call('ZREM', KEYS[3], m) end
end
return 1
`)
