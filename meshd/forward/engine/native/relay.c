/* Type 8: datagrams of other hosts on their way through this one, and those that came through others; the layout is in
 * forward/relay.py, the order that of forward/engine/relaying.py.
 *
 *   1. receiver index to key; replay look-up in the relay's window              TRUNCATED, UNKNOWN_SEGMENT, UNKNOWN_INDEX, REPLAYED, TOO_OLD
 *   2. authenticate header and datagram; commit to the window                   BAD_TAG
 *   3. for this host: what is inside goes on as if it had come alone, where it lies  UNKNOWN_TYPE
 *   4. for another one: its next hop, as Python answered when it was asked last
 *   5. first half of the header, ttl and tag are written anew where they lie; datagrams of one buffer that follow each other to one
 *      next hop go out as they came, in one send                                QUEUE_FULL, SEND_FAILED, TOO_BIG
 *
 * What is no hit goes to Python, unread: a key whose relay layer was not used yet or that nothing has confirmed, no cached next hop
 * or one without a direct path, ttl, loops, a key at its end. No run is open then, nor while any other datagram is looked at. */
#include "engine.h"

enum {
    INDEX_AT = 4,
    COUNTER_AT = 8,
    DESTINATION_AT = 16,
    SOURCE_AT = 24,
    TTL_AT = 32,
    MIN_CARRIED = 4,
    LAST_CARRIED_TYPE = 4,
    ROUTE_PROBES = 8,
};

/* 4: next hops by destination. Short ids are hashes: their low bits are as good as another. */

static struct peer *find_route(const struct core *core, const uint8_t *destination)
{
    uint32_t first = load_le32(destination);
    for (uint32_t i = 0; i < ROUTE_PROBES; i++) {
        const struct route *route = &core->routes[(first + i) % MAX_ROUTES];
        if (!route->via || memcmp(route->destination, destination, SHORT_ID_SIZE) == 0)
            return route->via;
    }
    return NULL;
}

/* Where all places are taken the first one is given up: that costs its owner the way through Python. */
void put_route(struct core *core, const uint8_t *destination, struct peer *via)
{
    uint32_t first = load_le32(destination);
    struct route *into = &core->routes[first % MAX_ROUTES];
    for (uint32_t i = 0; i < ROUTE_PROBES; i++) {
        struct route *route = &core->routes[(first + i) % MAX_ROUTES];
        if (!route->via || memcmp(route->destination, destination, SHORT_ID_SIZE) == 0) {
            into = route;
            break;
        }
    }
    memcpy(into->destination, destination, SHORT_ID_SIZE);
    into->via = via;
}

/* NULL: Python says. */
static struct peer *next_hop(const struct core *core, const struct receive_key *key, const uint8_t *data)
{
    if (data[TTL_AT] <= 1 || memcmp(data + SOURCE_AT, core->origin, SHORT_ID_SIZE) == 0)
        return NULL;
    struct peer *via = find_route(core, data + DESTINATION_AT);
    if (!via || via == key->peer || !via->port || !via->key->relay)
        return NULL;
    return via->key->relay->counter + MAX_SEND_DATAGRAMS <= MAX_KEY_DATAGRAMS ? via : NULL;
}

/* 1–2 */
static bool authentic(struct core *core, struct receive_key *key, uint8_t *data, uint32_t size)
{
    uint64_t counter = load_le64(data + COUNTER_AT);
    enum replay verdict = replay_check(key->relay_window, counter);
    if (verdict != REPLAY_NEW) {
        count_drop(core, verdict == REPLAY_DUPLICATE ? DROP_REPLAYED : DROP_TOO_OLD, 1);
        return false;
    }
    uint8_t nonce[AEAD_NONCE_SIZE] = {0}, *tag = data + size - AEAD_TAG_SIZE;
    memcpy(nonce + 4, data + COUNTER_AT, 8);
    if (!key->relay_aead->open(key->relay_aead, nonce, data, size - AEAD_TAG_SIZE, tag, 0, tag)) {
        count_drop(core, DROP_BAD_TAG, 1);
        return false;
    }
    replay_commit(key->relay_window, counter);
    key->peer->relayed_bytes_in += size;
    key->peer->last_heard = core->now;
    return true;
}

/* 3 */
static void unwrap(struct core *core, struct received *from, uint8_t *data, uint32_t size)
{
    uint8_t *carried = data + RELAY_HEADER_SIZE, type = carried[0] & 15;
    if (!type || type > LAST_CARRIED_TYPE) {
        count_drop(core, DROP_UNKNOWN_TYPE, 1);
        return;
    }
    from->carried_from = data + SOURCE_AT;
    datagram(core, from, carried, size - RELAY_OVERHEAD);
    from->carried_from = NULL;
}

/* 5: `data` has its second half and what it carries; its counter is new. */
bool seal_relay(struct seal_key *relay, uint8_t *data, uint32_t size)
{
    uint8_t nonce[AEAD_NONCE_SIZE] = {0}, *tag = data + size - AEAD_TAG_SIZE;
    memcpy(data, relay->head[0], COUNTER_AT);
    store_le64(data + COUNTER_AT, relay->counter);
    store_le64(nonce + 4, relay->counter);
    relay->counter++;
    return relay->aead->seal(relay->aead, nonce, data, size - AEAD_TAG_SIZE, tag, 0, tag);
}

/* `source`: the peer whose datagrams are carried; NULL: they are those of another host. Returns how many were sent. */
uint32_t send_relayed(struct core *core, struct peer *via, struct peer *source, const uint8_t *data, uint32_t bytes, uint32_t size, uint32_t count)
{
    uint32_t sent = 0;
    unsigned reason = send_parts(core, via, source, data, bytes, size, count, &sent);
    if (reason)
        count_drop(core, reason, count - sent);
    via->relayed_out += sent;
    via->relayed_bytes_out += sent == count ? bytes : (uint64_t)sent * size;
    return sent;
}

void relay_flush(struct core *core)
{
    struct relay_run run = core->run;
    core->run.count = 0;
    if (run.count)
        send_relayed(core, run.via, NULL, run.data, run.bytes, run.size, run.count);
}

static bool continues(const struct relay_run *run, const struct peer *via, const uint8_t *data, uint32_t size)
{
    return run->count && run->count < MAX_SEND_DATAGRAMS && run->via == via && run->data + run->bytes == data && size <= run->size &&
           run->bytes + size <= MAX_SEND_BYTES;
}

static void pass_on(struct core *core, struct peer *via, uint8_t *data, uint32_t size)
{
    struct relay_run *run = &core->run;
    if (!continues(run, via, data, size)) {
        relay_flush(core);
        *run = (struct relay_run){via, data, 0, size, 0};
    }
    data[TTL_AT]--;
    if (!seal_relay(via->key->relay, data, size)) {
        count_drop(core, DROP_SEND_FAILED, 1);
        return;
    }
    run->bytes += size;
    run->count++;
    if (size < run->size)
        relay_flush(core);
}

/* The next datagram, of type 8; returns how many bytes that took. */
uint32_t relay_datagram(struct core *core, struct received *from, uint8_t *data, uint32_t left)
{
    uint32_t size = left < from->segment ? left : from->segment;
    if (size < RELAY_OVERHEAD + MIN_CARRIED) {
        count_drop(core, DROP_TRUNCATED, 1);
        return size;
    }
    if (load_le16(data + 2)) {
        count_drop(core, DROP_UNKNOWN_SEGMENT, 1);
        return size;
    }
    struct receive_key *key = find_key(core, load_le32(data + INDEX_AT));
    if (!key) {
        count_drop(core, DROP_UNKNOWN_INDEX, 1);
        return size;
    }
    bool ours = memcmp(data + DESTINATION_AT, core->origin, SHORT_ID_SIZE) == 0;
    struct peer *via = NULL;
    if (!core->relays || !key->relay_aead || !is_confirmed(core, key) || !(ours || (via = next_hop(core, key, data)))) {
        relay_flush(core);
        return other_datagrams(core, from, data, left);
    }
    if (!authentic(core, key, data, size))
        return size;
    if (via) {
        pass_on(core, via, data, size);
    } else {
        relay_flush(core);
        unwrap(core, from, data, size);
    }
    return size;
}
