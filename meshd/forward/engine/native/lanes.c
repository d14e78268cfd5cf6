/* From entries to the datagram port: small frames of one wake-up share datagrams, datagrams of one size share a send.
 *
 *   1. an entry joins the open datagram of its peer's lane, unless it does not fit or its checksum is vouched for and the others'
 *      are not
 *   2. a datagram that takes no more is sealed where it lies                                        KEY_EXPIRED
 *   3. it stays behind the other sealed ones of its size, until there are 64 or a shorter one ends the run
 *   4. the run goes out in one send                                                                 QUEUE_FULL, SEND_FAILED, TOO_BIG
 *
 * Nothing waits beyond the wake-up. Order to one peer is kept: whoever sends past the lane flushes it first. */
#include "engine.h"

static struct lane *take_lane(struct core *core, struct peer *peer)
{
    struct lane *lane = &core->lanes[core->next_lane];
    for (int i = 0; i < MAX_LANES && lane->peer; i++)
        lane = &core->lanes[(core->next_lane + i) % MAX_LANES];
    if (lane->peer) {
        lane = &core->lanes[core->next_lane];
        lane_flush(core, lane->peer);
    }
    core->next_lane = (int)(lane - core->lanes + 1) % MAX_LANES;
    lane->peer = peer;
    lane->count = lane->bytes = lane->size = lane->entries = lane->open = 0;
    peer->lane = lane;
    return lane;
}

static bool seal(struct seal_key *key, uint8_t *datagram, uint32_t size, bool vouched)
{
    uint8_t nonce[AEAD_NONCE_SIZE] = {0};
    memcpy(datagram, key->head[vouched], 8);
    store_le64(datagram + 8, key->counter);
    store_le64(nonce + 4, key->counter);
    key->counter++;
    uint8_t *body = datagram + DATA_HEADER_SIZE;
    uint32_t hidden = size - DATA_OVERHEAD;
    return key->aead->seal(key->aead, nonce, datagram, DATA_HEADER_SIZE, body, hidden, body + hidden);
}

/* `size` bytes from `datagram` on, of which type 8 has its part where the peer is reached through another one. */
bool seal_datagram(struct peer *peer, uint8_t *datagram, uint32_t size, bool vouched)
{
    if (!peer->via)
        return seal(peer->key, datagram, size, vouched);
    if (!seal(peer->key, datagram + RELAY_HEADER_SIZE, size - RELAY_OVERHEAD, vouched))
        return false;
    memcpy(datagram + RELAY_HEADER_SIZE - ROUTE_SIZE, peer->route, ROUTE_SIZE);
    return seal_relay(peer->via->key->relay, datagram, size);
}

void send_datagrams(struct core *core, struct peer *peer, const uint8_t *data, uint32_t bytes, uint32_t size, uint32_t count)
{
    uint32_t sent = 0;
    unsigned reason = 0;
    if (peer->via)
        sent = send_relayed(core, peer->via, peer, data, bytes, size, count);
    else
        reason = send_parts(core, peer, peer, data, bytes, size, count, &sent);
    if (reason)
        count_drop(core, reason, count - sent);
    if (!sent)
        return;
    peer->datagrams_out += sent;
    peer->bytes_out += (sent == count ? bytes : (uint64_t)sent * size) - (uint64_t)sent * wrapping_of(peer);
}

static void send_sealed(struct core *core, struct lane *lane)
{
    uint32_t count = lane->count, bytes = lane->bytes, size = lane->size;
    lane->count = lane->bytes = lane->size = 0;
    if (count)
        send_datagrams(core, lane->peer, lane->data, bytes, size, count);
}

/* Seal the open datagram. It is moved to the front where the ones before it had to go first. */
static void seal_open(struct core *core, struct lane *lane)
{
    struct seal_key *key = lane->peer->key;
    uint32_t size = DATA_OVERHEAD + lane->open + wrapping_of(lane->peer);
    if (!lane->entries)
        return;
    lane->entries = lane->open = 0;
    if (!peer_sends(lane->peer)) {
        count_drop(core, DROP_NO_PATH, 1);
        return;
    }
    if (key->counter >= MAX_KEY_DATAGRAMS || (lane->peer->via && lane->peer->via->key->relay->counter >= MAX_KEY_DATAGRAMS)) {
        count_drop(core, DROP_KEY_EXPIRED, 1);
        return;
    }
    uint8_t *datagram = lane->data + lane->bytes;
    if (lane->count >= MAX_SEND_DATAGRAMS || lane->bytes + size > MAX_SEND_BYTES || size > lane->size) {
        send_sealed(core, lane);
        memmove(lane->data, datagram, size - AEAD_TAG_SIZE);
        datagram = lane->data;
        lane->size = size;
    }
    if (!seal_datagram(lane->peer, datagram, size, lane->vouched)) {
        count_drop(core, DROP_SEND_FAILED, 1);
        return;
    }
    lane->count++;
    lane->bytes += size;
    if (size < lane->size)
        send_sealed(core, lane);
}

/* `header`: an entry header for the body, or NULL where the body has it already. The caller has seen that it fits the path. */
void lane_add(struct core *core, struct peer *peer, const uint8_t *header, const uint8_t *body, uint32_t size, bool vouched)
{
    struct lane *lane = peer->lane ? peer->lane : take_lane(core, peer);
    uint32_t entry = size + (header ? ENTRY_HEADER_SIZE : 0);
    if (lane->entries && (vouched != lane->vouched || DATA_OVERHEAD + lane->open + entry > peer->aggregate_limit))
        seal_open(core, lane);
    uint8_t *at = lane->data + lane->bytes + room_before(peer) + DATA_HEADER_SIZE + lane->open;
    if (header) {
        memcpy(at, header, ENTRY_HEADER_SIZE);
        at += ENTRY_HEADER_SIZE;
    }
    memcpy(at, body, size);
    lane->entries++;
    lane->open += entry;
    lane->vouched = vouched;
}

void lane_flush(struct core *core, struct peer *peer)
{
    struct lane *lane = peer->lane;
    if (!lane)
        return;
    seal_open(core, lane);
    send_sealed(core, lane);
    lane->peer = NULL;
    peer->lane = NULL;
}

void lanes_flush(struct core *core)
{
    for (int i = 0; i < MAX_LANES; i++) {
        struct lane *lane = &core->lanes[(core->next_lane + i) % MAX_LANES];
        if (lane->peer)
            lane_flush(core, lane->peer);
    }
}
