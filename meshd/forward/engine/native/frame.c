#include "frame.h"

enum { MAX_TAGS = 2, MORE_OR_OFFSET = 0x3FFF };

static bool l4_headers(const uint8_t *frame, struct headers *headers)
{
    uint32_t size = headers->end - headers->l4;
    const uint8_t *l4 = frame + headers->l4;
    if (headers->protocol == PROTOCOL_TCP && size >= 20) {
        uint32_t header = (l4[12] >> 4) * 4u;
        if (header < 20 || header > size)
            return false;
        headers->payload = (uint16_t)(headers->l4 + header);
        headers->checksum_offset = 16;
        return true;
    }
    if (headers->protocol == PROTOCOL_UDP && size >= 8 && load_be16(l4 + 4) == size) {
        headers->payload = (uint16_t)(headers->l4 + 8);
        headers->checksum_offset = 6;
        return true;
    }
    return false;
}

bool frame_headers(const uint8_t *frame, size_t size, struct headers *headers)
{
    size_t l3 = ETHERNET_SIZE;
    if (size < l3)
        return false;
    uint16_t ethertype = load_be16(frame + 12);
    for (int tag = 0; tag < MAX_TAGS; tag++) {
        if ((ethertype != 0x8100 && ethertype != 0x88A8) || size < l3 + 4)
            break;
        ethertype = load_be16(frame + l3 + 2);
        l3 += 4;
    }
    const uint8_t *ip = frame + l3;
    headers->l3 = (uint16_t)l3;
    if (ethertype == 0x0800 && size >= l3 + 20) {
        uint32_t header = (ip[0] & 15) * 4u, total = load_be16(ip + 2);
        if (ip[0] >> 4 != 4 || header < 20 || total < header || l3 + total > size || load_be16(ip + 6) & MORE_OR_OFFSET)
            return false;
        headers->version = 4;
        headers->protocol = ip[9];
        headers->l4 = (uint16_t)(l3 + header);
        headers->end = (uint32_t)(l3 + total);
        return l4_headers(frame, headers);
    }
    if (ethertype == 0x86DD && size >= l3 + 40) {
        uint32_t length = load_be16(ip + 4);
        if (ip[0] >> 4 != 6 || l3 + 40 + length > size)
            return false;
        headers->version = 6;
        headers->protocol = ip[6];
        headers->l4 = (uint16_t)(l3 + 40);
        headers->end = (uint32_t)(l3 + 40 + length);
        return l4_headers(frame, headers);
    }
    return false;
}

uint32_t ones_sum(const uint8_t *data, size_t size)
{
    uint64_t sum = 0;
    size_t at = 0;
    for (; at + 4 <= size; at += 4)
        sum += load_be32(data + at); /* a 32-bit word is its two halves, modulo 65535 */
    if (at + 2 <= size) {
        sum += load_be16(data + at);
        at += 2;
    }
    if (at < size)
        sum += (uint32_t)data[at] << 8;
    return (uint32_t)(sum % 65535);
}

uint32_t pseudo_sum(const uint8_t *frame, const struct headers *headers, uint32_t length)
{
    const uint8_t *ip = frame + headers->l3;
    uint32_t sum = headers->version == 4 ? ones_sum(ip + 12, 8) : ones_sum(ip + 8, 32);
    sum = (sum + headers->protocol + length) % 65535;
    return sum ? sum : 65535;
}

void fit_headers(uint8_t *frame, const struct headers *headers, uint32_t payload)
{
    uint8_t *ip = frame + headers->l3, *l4 = frame + headers->l4;
    uint32_t length = headers->payload - headers->l4 + payload;
    if (headers->version == 4) {
        store_be16(ip + 2, headers->l4 - headers->l3 + length);
        store_be16(ip + 10, 0);
        store_be16(ip + 10, checksum_of(ones_sum(ip, headers->l4 - headers->l3)));
    } else {
        store_be16(ip + 4, length);
    }
    if (headers->protocol == PROTOCOL_UDP)
        store_be16(l4 + 4, length);
    store_be16(l4 + headers->checksum_offset, pseudo_sum(frame, headers, length));
}

uint8_t gso_kind(const struct headers *headers)
{
    if (headers->protocol == PROTOCOL_UDP)
        return GSO_UDP_L4;
    return headers->version == 4 ? GSO_TCPV4 : GSO_TCPV6;
}

void partial_vnet(uint8_t *at, const struct headers *headers, uint16_t gso_size)
{
    struct vnet vnet = {
        .flags = VNET_NEEDS_CSUM,
        .gso_type = gso_size ? gso_kind(headers) : GSO_NONE,
        .header_length = headers->payload,
        .gso_size = gso_size,
        .csum_start = headers->l4,
        .csum_offset = headers->checksum_offset,
    };
    memcpy(at, &vnet, VNET_SIZE);
}
