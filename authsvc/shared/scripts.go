package shared

import (
	"context"
	"crypto/sha1" //nolint:gosec // how the store names a script
	"encoding/hex"
	"strings"

	"github.com/redis/rueidis"
)

// script is a program that the store runs at once, for one hash tag. All times
// are the store's own, in milliseconds.
type script struct{ text, sum string }

func newScript(text string) script {
	text = strings.TrimSpace(text)
	sum := sha1.Sum([]byte(text)) //nolint:gosec // how the store names a script
	return script{text, hex.EncodeToString(sum[:])}
}

// command is a call of the script by its name.
func (p script) command(c rueidis.Client, keys, args []string) rueidis.Completed {
	return c.B().Evalsha().Sha1(p.sum).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build()
}

// whole is a call that brings the script along.
func (p script) whole(c rueidis.Client, keys, args []string) rueidis.Completed {
	return c.B().Eval().Script(p.text).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build()
}

// run calls the script, which a store that was restarted does not know.
func (p script) run(ctx context.Context, c rueidis.Client, keys, args []string) rueidis.RedisResult {
	r := c.Do(ctx, p.command(c, keys, args))
	if unknown(r.Error()) {
		r = c.Do(ctx, p.whole(c, keys, args))
	}
	return r
}

// runAll calls the script for many keys in one go. The results are in order.
func (p script) runAll(ctx context.Context, c rueidis.Client, calls []scriptCall) []rueidis.RedisResult {
	commands := make([]rueidis.Completed, len(calls))
	for i, call := range calls {
		commands[i] = p.command(c, call.keys, call.args)
	}
	results := c.DoMulti(ctx, commands...)
	for i := range results {
		if unknown(results[i].Error()) {
			results[i] = c.Do(ctx, p.whole(c, calls[i].keys, calls[i].args))
		}
	}
	return results
}

type scriptCall struct{ keys, args []string }

func unknown(err error) bool {
	e, isErr := rueidis.IsRedisErr(err)
	return isErr && e.IsNoScript()
}

// clock begins each script.
const clock = `
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
`

// A replica's field in a user's connections is
//
//	count:lease end:granted:sequence:strict
//
// count is what it had, granted what it may have without asking, which is what
// others have to reckon with. Where a user is not strict they reckon with a
// floor for every replica besides, that it may use unasked: all floors together
// are no more than half of the user's connections. The field "!" says until when
// the user is strict: none may use its floor then, nor keep to itself what was
// given back. A user stays strict while there is no room for all floors. A call
// with a sequence number that is not higher than the last one was overtaken, and
// has no effect. A lease that ends later than any can was made by a clock that has been
// set back since: it would last for as long as that was.
const reckon = `
local me, seq, floor, replicas, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local life, ttl, held = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local strictUntil = tonumber(redis.call('HGET', KEYS[1], '!') or '0')
local strict = strictUntil > now
local granted, counted, seen, overtaken, loose = 0, 0, 0, false, false
local floors, spare = 0, 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local r = all[i]
  if r ~= '!' then
    local c, e, g, q, x = string.match(all[i + 1], '^(%d+):(%d+):(%d+):(%d+):(%d)$')
    if r == me then
      if q and tonumber(q) >= seq then overtaken = true end
    elseif not c or tonumber(e) <= now or tonumber(e) > now + 2 * life then
      redis.call('HDEL', KEYS[1], r)
    else
      c, g = tonumber(c), tonumber(g)
      seen, counted, granted = seen + 1, counted + c, granted + g
      if g < floor then
        spare = spare + floor - g
        if x == '0' then floors = floors + floor - g end
      end
      if x == '0' and c > 0 then loose = true end
    end
  end
end
if replicas - 1 > seen then
  spare = spare + (replicas - 1 - seen) * floor
  floors = floors + (replicas - 1 - seen) * floor
end
local half = math.floor(most / 2)
floors = math.min(floors, half)
local function becomeStrict()
  strict, strictUntil = true, now + life
  redis.call('HSET', KEYS[1], '!', string.format('%d', strictUntil))
end
local function keep(count, mine)
  if most > 0 and granted + mine + math.min(spare + math.max(floor - mine, 0), half) > most then becomeStrict() end
  local x = '0'
  if strict then x = '1' end
  redis.call('HSET', KEYS[1], me, string.format('%d:%d:%d:%d:%s', count, now + life, mine, seq, x))
end
local function left()
  if strict then return strictUntil - now end
  return 0
end
`

// enterScript asks for connections of a user, one for each element behind the
// first arguments: the source, if it is new on this replica, or "". It answers
// for each whether it may come ("y"), or the user has too many connections
// ("c") or addresses ("a"), how many are granted altogether, what the others have,
// for how long the user is strict, and whether the others, if they are, may have
// something to give back.
var enterScript = newScript(clock + reckon + `
if overtaken then return {'', 0, 0, 0, 0} end
local wide = tonumber(ARGV[9])
local reserved = granted + floors
local from, distinct = {}, 0
if wide > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  redis.call('ZREMRANGEBYSCORE', KEYS[2], now + 2 * life, '+inf')
  for _, m in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    local a = string.match(m, '^([^|]*)|')
    if a and not from[a] then from[a] = true; distinct = distinct + 1 end
  end
end
local answers, count, refused = {}, held, false
for i = 10, #ARGV do
  local a = ARGV[i]
  if a ~= '' and wide > 0 and not from[a] and distinct >= wide then
    answers[#answers + 1] = 'a'
  elseif most > 0 and reserved + count + 1 > most then
    answers[#answers + 1] = 'c'
    refused = true
  else
    answers[#answers + 1] = 'y'
    count = count + 1
    if a ~= '' and wide > 0 then
      if not from[a] then from[a] = true; distinct = distinct + 1 end
      redis.call('ZADD', KEYS[2], now + life, a .. '|' .. me)
    end
  end
end
local mine, slack = count, 0
if most > 0 then
  if refused and (reserved > counted or loose) then slack = 1 end
  if slack == 1 or (strict and 2 * (counted + count) >= most) then
    becomeStrict()
  elseif not strict and not refused then
    local ahead = math.floor(most / 8)
    if 4 * (reserved + mine + ahead) <= 3 * most then mine = mine + ahead end
  end
end
keep(count, mine)
redis.call('PEXPIRE', KEYS[1], ttl)
if wide > 0 then redis.call('PEXPIRE', KEYS[2], ttl) end
return {table.concat(answers), mine, counted, left(), slack}
`)

// beatScript says what a replica holds of a user: the number of connections, how many
// of them may be ended if they are too many, and then the sources. It answers what the
// others have, for how long the user is still strict, and how many are to be ended,
// which count no more: replicas that ask at the same time do not end the same surplus
// each.
var beatScript = newScript(clock + reckon + `
if overtaken then return {counted, left(), 0} end
local ended = 0
if most > 0 then ended = math.max(math.min(held + counted - most, held, tonumber(ARGV[9])), 0) end
held = held - ended
local mine = {}
for i = 10, #ARGV do mine[ARGV[i]] = true end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
for _, m in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  local a, r = string.match(m, '^([^|]*)|(.*)$')
  if r == me and not mine[a] then redis.call('ZREM', KEYS[2], m) end
end
for a in pairs(mine) do redis.call('ZADD', KEYS[2], now + life, a .. '|' .. me) end
if held > 0 or strict then
  keep(held, held)
else
  redis.call('HDEL', KEYS[1], me)
  if strictUntil > 0 then redis.call('HDEL', KEYS[1], '!') end
end
redis.call('PEXPIRE', KEYS[1], ttl)
redis.call('PEXPIRE', KEYS[2], ttl)
return {counted, left(), ended}
`)

// failScript counts a failed log-in of a source, or bans it at once. It answers
// {ends in, level, new, since when}: ms until the ban's end, 0 without one.
//
// ARGV: most failures, window, first ban, longest ban, least level of a ban that
// the replica has made already (0: none), length that an operator wants (0: no
// operator).
var failScript = newScript(clock + `
local most, window, first, longest = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local least, wanted = tonumber(ARGV[5]), tonumber(ARGV[6])
local level = tonumber(redis.call('HGET', KEYS[2], 'level') or '0')
local ends = tonumber(redis.call('HGET', KEYS[2], 'until') or '0')
local since = tonumber(redis.call('HGET', KEYS[2], 'since') or '0')
if wanted == 0 then
  if ends > now then return {ends - now, level, 0, now - since} end
  local n = redis.call('INCR', KEYS[1])
  if n == 1 or redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], window) end
  if n < most and least == 0 then return {0, level, 0, 0} end
end
level = math.max(level + 1, least)
local length = wanted
if length == 0 then length = math.min(first * 2 ^ math.min(level - 1, 40), longest) end
length = math.min(length, longest)
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[2], 'level', level, 'until', string.format('%d', now + length), 'since', string.format('%d', now))
redis.call('HDEL', KEYS[2], 'lifted')
redis.call('PEXPIRE', KEYS[2], string.format('%d', length + longest))
return {length, level, 1, 0}
`)

// listScript puts a ban on the list of all, or takes one off (no data), and
// trims the list.
var listScript = newScript(clock + `
for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[1], old)
  redis.call('HDEL', KEYS[2], old)
end
if ARGV[3] == '' then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[1])
else
  redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
end
return 1
`)

// liftScript ends a ban, and has the store remember that for as long as it would have
// remembered the ban: a replica that was away may have it saved. ARGV: for how long, if
// the store does not know the ban.
var liftScript = newScript(clock + `
local life = redis.call('PTTL', KEYS[2])
if life <= 0 then life = tonumber(ARGV[1]) end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[2], 'lifted', string.format('%d', now))
redis.call('PEXPIRE', KEYS[2], string.format('%d', life))
return 1
`)

// restoreScript puts a ban that a replica remembers into a store that has lost it. It
// answers 1 if it did, 0 if the ban is there or over, and -1 if it was lifted. ARGV:
// ends, level, since, longest ban.
var restoreScript = newScript(clock + `
local ends = tonumber(ARGV[1])
if tonumber(redis.call('HGET', KEYS[1], 'lifted') or '0') >= tonumber(ARGV[3]) then return -1 end
if ends <= now or tonumber(redis.call('HGET', KEYS[1], 'until') or '0') >= ends then return 0 end
redis.call('HSET', KEYS[1], 'until', ARGV[1], 'level', ARGV[2], 'since', ARGV[3])
redis.call('PEXPIRE', KEYS[1], string.format('%d', ends - now + tonumber(ARGV[4])))
return 1
`)

// quotaScript says what a replica has moved of a user's quota in the period
// that begins when it says; 0: it has moved nothing. It answers {begin of the
// period in force, moved by the others, by this replica as the store has it,
// whether what it said counts}.
//
// What was moved counts for the period in force if it was moved in it. Two that
// began one at about the same time agree on the first that said so; periods of
// one that the store has lost go on from when the replicas remember.
//
// What was moved in a period that began before an operator's reset counts no more.
// A begin that is later than now is of a replica that has the store's clock wrong,
// by as long as an answer was under way: it is now.
//
// The counts of a period are under the first key with its begin behind it, which
// has the same hash tag. ARGV: id, begin, moved, length of a period.
var quotaScript = newScript(clock + `
local me, told, own, period = ARGV[1], math.min(tonumber(ARGV[2]), now), tonumber(ARGV[3]), tonumber(ARGV[4])
local begin = tonumber(redis.call('GET', KEYS[1]) or '0')
local reset = tonumber(redis.call('GET', KEYS[1] .. ':reset') or '0')
if begin == 0 then begin = math.max(told, reset) end
if begin == 0 then return {'0', '0', '0', 0} end
if now >= begin + period then begin = begin + math.floor((now - begin) / period) * period end
local life = string.format('%d', begin + period - now + 86400000)
redis.call('SET', KEYS[1], string.format('%d', begin), 'PX', life)
local key, counts = KEYS[1] .. ':' .. string.format('%d', begin), 0
if told >= reset and told > begin - period then
  counts = 1
  if own > 0 then redis.call('HSET', key, me, string.format('%d', own)) end
end
local others, mine = 0, 0
local all = redis.call('HGETALL', key)
for i = 1, #all, 2 do
  local n = tonumber(all[i + 1])
  if all[i] == me then mine = n else others = others + n end
end
redis.call('PEXPIRE', key, life)
return {string.format('%d', begin), string.format('%d', others), string.format('%d', mine), counts}
`)

// resetScript begins a new period of a user's quota, whatever was moved in the
// one of before. ARGV: length of a period.
var resetScript = newScript(clock + `
local begin, life = string.format('%d', now), string.format('%d', tonumber(ARGV[1]) + 86400000)
redis.call('SET', KEYS[1], begin, 'PX', life)
redis.call('SET', KEYS[1] .. ':reset', begin, 'PX', life)
redis.call('DEL', KEYS[1] .. ':' .. begin)
return begin
`)

// foldScript adds the part of a replica that leaves to that of those who left
// before. Called again it finds nothing to add.
var foldScript = newScript(`
local begin = redis.call('GET', KEYS[1])
if not begin then return 0 end
local key = KEYS[1] .. ':' .. begin
local own = redis.call('HGET', key, ARGV[1])
if not own then return 0 end
redis.call('HDEL', key, ARGV[1])
redis.call('HINCRBY', key, 'base', own)
return 1
`)
