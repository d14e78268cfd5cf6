#include "flows.h"

#include <stdlib.h>
#include <sys/random.h>

enum { FIRST_BUCKETS = 256 };

/* Keyed, so that nobody can invent addresses that all fall into one bucket. */
static uint32_t bucket_of(const struct flow_table *table, uint32_t slot, const uint8_t *addresses)
{
    uint64_t a = (load_le64(addresses) ^ table->seed[0]) * 0x9E3779B97F4A7C15u;
    uint64_t b = (((uint64_t)slot << 32 | load_le32(addresses + 8)) ^ table->seed[1]) * 0xC2B2AE3D27D4EB4Fu;
    uint64_t mixed = (a ^ a >> 32 ^ b) * 0x165667B19E3779F9u;
    return (uint32_t)(mixed >> 32) & table->mask;
}

enum { MAC_SIZE = 6 };

static inline const uint8_t *mac_of(const struct flow *flow, int end) { return flow->addresses + end * MAC_SIZE; }

static struct flow **mac_bucket(const struct flow_table *table, int end, const uint8_t *mac)
{
    uint64_t number = (uint64_t)load_le16(mac + 4) << 32 | load_le32(mac);
    uint64_t a = (number ^ table->seed[0]) * 0x9E3779B97F4A7C15u;
    uint64_t mixed = (a ^ a >> 32 ^ table->seed[1]) * 0xC2B2AE3D27D4EB4Fu;
    return &table->macs[end][(uint32_t)(mixed >> 32) & table->mask];
}

static void link_macs(struct flow_table *table, struct flow *flow)
{
    for (int end = 0; end < ENDS; end++) {
        struct by_mac *link = &flow->ends[end];
        link->at = mac_bucket(table, end, mac_of(flow, end));
        link->next = *link->at;
        if (link->next)
            link->next->ends[end].at = &link->next;
        *link->at = flow;
    }
}

static void unlink_macs(struct flow *flow)
{
    for (int end = 0; end < ENDS; end++) {
        struct by_mac *link = &flow->ends[end];
        *link->at = link->next;
        if (link->next)
            link->next->ends[end].at = link->at;
    }
}

struct flow *flows_find(struct flow_table *table, uint32_t slot, const uint8_t *addresses)
{
    struct flow *flow = table->buckets[bucket_of(table, slot, addresses)];
    while (flow && (flow->slot != slot || memcmp(flow->addresses, addresses, ADDRESSES_SIZE) != 0))
        flow = flow->next;
    return flow;
}

static void unlink_use(struct flow *flow)
{
    flow->older->younger = flow->younger;
    flow->younger->older = flow->older;
}

static void make_youngest(struct flow_table *table, struct flow *flow)
{
    flow->older = table->use.older;
    flow->younger = &table->use;
    flow->older->younger = flow;
    table->use.older = flow;
}

void flow_touch(struct flow_table *table, struct flow *flow)
{
    if (table->use.older == flow)
        return;
    unlink_use(flow);
    make_youngest(table, flow);
}

void flow_used(struct flow_table *table, struct flow *flow, uint32_t bytes, double now)
{
    flow->frames++;
    flow->bytes += bytes;
    flow->last_used = now;
    flow_touch(table, flow);
}

void flows_forget(struct flow_table *table, struct flow *flow)
{
    struct flow **at = &table->buckets[bucket_of(table, flow->slot, flow->addresses)];
    while (*at != flow)
        at = &(*at)->next;
    *at = flow->next;
    unlink_use(flow);
    unlink_macs(flow);
    table->count--;
    GIVE_BACK(flow->peer);
    GIVE_BACK(flow->object);
    free(flow);
}

struct flow *flows_next(struct flow_table *table, int end, const uint8_t *mac, const struct flow *after)
{
    struct flow *flow = after ? after->ends[end].next : *mac_bucket(table, end, mac);
    for (; flow; flow = flow->ends[end].next) {
        table->looked_at++;
        if (memcmp(mac_of(flow, end), mac, MAC_SIZE) == 0)
            break;
    }
    return flow;
}

uint32_t flows_void(struct flow_table *table, const uint8_t *mac)
{
    uint32_t before = table->count;
    for (int end = 0; end < ENDS; end++) {
        for (struct flow *flow = flows_next(table, end, mac, NULL), *next; flow; flow = next) {
            next = flows_next(table, end, mac, flow);
            flows_forget(table, flow);
        }
    }
    return before - table->count;
}

static bool grow(struct flow_table *table)
{
    uint32_t buckets = table->buckets ? 2 * (table->mask + 1) : FIRST_BUCKETS;
    struct flow **bigger = calloc((size_t)buckets * (1 + ENDS), sizeof *bigger);
    if (!bigger)
        return false;
    free(table->buckets);
    table->buckets = bigger;
    for (int end = 0; end < ENDS; end++)
        table->macs[end] = bigger + (size_t)buckets * (size_t)(1 + end);
    table->mask = buckets - 1;
    for (struct flow *flow = table->use.younger; flow != &table->use; flow = flow->younger) {
        struct flow **at = &table->buckets[bucket_of(table, flow->slot, flow->addresses)];
        flow->next = *at;
        *at = flow;
        link_macs(table, flow);
    }
    return true;
}

struct flow *flows_add(struct flow_table *table, uint32_t slot, const uint8_t *addresses)
{
    struct flow *flow = flows_find(table, slot, addresses);
    if (flow)
        flows_forget(table, flow);
    if (table->count >= table->limit)
        flows_forget(table, table->use.younger);
    if (table->count > table->mask && !grow(table))
        return NULL;
    flow = calloc(1, sizeof *flow);
    if (!flow)
        return NULL;
    flow->slot = slot;
    memcpy(flow->addresses, addresses, ADDRESSES_SIZE);
    struct flow **bucket = &table->buckets[bucket_of(table, slot, addresses)];
    flow->next = *bucket;
    *bucket = flow;
    make_youngest(table, flow);
    link_macs(table, flow);
    table->count++;
    return flow;
}

bool flows_prepare(struct flow_table *table, uint32_t limit)
{
    table->use.older = table->use.younger = &table->use;
    table->limit = limit ? limit : 1;
    return getrandom(table->seed, sizeof table->seed, 0) == sizeof table->seed && grow(table);
}

void flows_release(struct flow_table *table)
{
    while (table->count)
        flows_forget(table, table->use.younger);
    free(table->buckets);
    table->buckets = NULL;
}
