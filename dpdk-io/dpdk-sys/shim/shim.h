/* Flat C functions over libdpdk: every struct that DPDK may change between releases is filled in
 * here, so that Rust knows opaque pointers, these structs and twelve fields of rte_mbuf only.
 * Functions that can fail return 0 or a negative errno unless they say otherwise. */
#ifndef DIO_SHIM_H
#define DIO_SHIM_H

#include <stddef.h>
#include <stdint.h>

struct rte_flow;
struct rte_mbuf;
struct rte_mempool;
struct rte_ring;

/* Offloads as Rust names them. */
#define DIO_RX_TCP_CKSUM 1u
#define DIO_RX_TCP_LRO 2u
#define DIO_TX_MULTI_SEGS 1u
#define DIO_TX_TCP_CKSUM 2u
#define DIO_TX_TCP_TSO 4u
#define DIO_TX_IPV4_CKSUM 8u
/* What a port spreads over its queues by the four numbers of a flow. */
#define DIO_RSS_TCP4 1u
#define DIO_RSS_TCP6 2u

struct dio_port_info {
	char driver[32];
	uint8_t mac[6];
	uint16_t mtu;
	uint16_t max_mtu;
	uint16_t max_rx_queues;
	uint16_t max_tx_queues;
	uint32_t rx_offloads;      /* DIO_RX_* the port is capable of */
	uint32_t tx_offloads;      /* DIO_TX_* */
	uint32_t rss;              /* DIO_RSS_* the port is capable of */
	uint16_t reta_size;        /* entries of its redirection table, 0 when it cannot be set */
	uint16_t tx_segments;      /* most mbufs of a packet to be sent */
	uint16_t tx_mtu_segments;  /* most of them that a frame on the wire is made from */
	int32_t socket;            /* NUMA node, -1 unknown */
};

struct dio_port_conf {
	uint16_t rx_queues;
	uint16_t tx_queues;
	uint16_t rx_descriptors;
	uint16_t tx_descriptors;
	uint16_t mtu;
	uint32_t rx_offloads;
	uint32_t tx_offloads;
	uint32_t rss;
};

struct dio_port_stats {
	uint64_t rx_packets, rx_bytes, rx_missed, rx_errors, rx_nombuf;
	uint64_t tx_packets, tx_bytes, tx_errors;
};

struct dio_link {
	uint32_t up;
	uint32_t speed_mbps;       /* UINT32_MAX unknown */
};

typedef void (*dio_log_sink)(uint32_t level, const char *text, size_t len);

const char *dio_version(void);
const char *dio_strerror(int error);

/* argv is permuted and must stay allocated; the caller's CPU affinity is the same afterwards. */
int dio_eal_init(int argc, char **argv);
int dio_eal_cleanup(void);
int dio_log_to(dio_log_sink sink);
int dio_thread_register(void);
void dio_thread_unregister(void);
int dio_thread_socket(void);

/* clones: pool of buffer-less mbufs for views of this pool's buffers; NULL makes this pool its own. */
struct rte_mempool *dio_pool_create(const char *name, uint32_t count, uint32_t cache,
	uint16_t data_room, struct rte_mempool *clones, int socket, int *error);
void dio_pool_free(struct rte_mempool *pool);
uint32_t dio_pool_in_use(const struct rte_mempool *pool);
/* What is left for anybody; what threads' caches hold is not. O(1), unlike dio_pool_in_use. */
uint32_t dio_pool_shared(const struct rte_mempool *pool);
uint32_t dio_pool_element_size(const struct rte_mempool *pool);

struct rte_mbuf *dio_alloc(struct rte_mempool *pool);
/* 0, or -1 with nothing taken when fewer than n are left. */
int dio_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **into, uint32_t n);
void dio_free_chain(struct rte_mbuf *mbuf);
void dio_free_segment(struct rte_mbuf *mbuf);
void dio_free_bulk(struct rte_mbuf **mbufs, uint32_t n);
/* A new mbuf over bytes [off, off + len) of the buffer of mbuf, which gains a reference; NULL when no
 * mbuf is left, or the buffer has some 60,000 references. */
struct rte_mbuf *dio_clone(struct rte_mbuf *mbuf, uint16_t off, uint16_t len);
/* The whole packet copied into one buffer of pool; NULL when it does not fit or none is left. */
struct rte_mbuf *dio_copy_flat(struct rte_mempool *pool, struct rte_mbuf *packet);
struct rte_mempool *dio_clones_of(struct rte_mempool *pool);

int dio_port_by_name(const char *name, uint16_t *port);
uint16_t dio_port_next(uint16_t port, char name[64]);
int dio_port_info(uint16_t port, struct dio_port_info *info);
int dio_port_configure(uint16_t port, const struct dio_port_conf *conf, struct rte_mempool **rx_pools);
int dio_port_start(uint16_t port);
/* Entry i of the redirection table leads to queues[i]. */
int dio_port_set_reta(uint16_t port, const uint16_t *queues, uint16_t size);
/* The table as the port has it. */
int dio_port_reta(uint16_t port, uint16_t *queues, uint16_t size);
/* Makes 6d5a, repeated, the hash key; 0 only when the port has it. */
int dio_port_set_rss_key(uint16_t port);
int dio_port_stop(uint16_t port);
int dio_port_close(uint16_t port);
int dio_port_promiscuous(uint16_t port);
int dio_port_is_promiscuous(uint16_t port);
int dio_port_allmulticast(uint16_t port);
int dio_port_set_mac(uint16_t port, const uint8_t mac[6]);
int dio_port_set_mtu(uint16_t port, uint16_t mtu);
int dio_port_link(uint16_t port, struct dio_link *link);
int dio_port_stats(uint16_t port, struct dio_port_stats *stats);
/* Number of extended statistics; fills at most n names and values. */
int dio_port_xstats(uint16_t port, char (*names)[64], uint64_t *values, uint32_t n);
/* A TCP flow as a port receives it: addresses in network order, 16 octets each (IPv4 uses four). */
struct dio_flow {
	uint8_t src[16], dst[16];
	uint16_t src_port, dst_port;
	uint32_t v6;
};

/* A rule that puts the flow into a queue. NULL, with *error set, when the port has no such rules or no
 * room; nothing changed then. Not for the data path. */
struct rte_flow *dio_flow_create(uint16_t port, const struct dio_flow *flow, uint16_t queue, int *error);
int dio_flow_destroy(uint16_t port, struct rte_flow *rule);

/* A ring of up to size - 1 packets between one sender and one receiver; size is a power of two. */
struct rte_ring *dio_ring_create(uint32_t size, int socket, int *error);
/* The packets in it are the caller's to take out first. */
void dio_ring_free(struct rte_ring *ring);
/* How many packets from the front were taken. */
uint32_t dio_ring_enqueue(struct rte_ring *ring, struct rte_mbuf **mbufs, uint32_t n);
uint32_t dio_ring_dequeue(struct rte_ring *ring, struct rte_mbuf **into, uint32_t n);

int dio_vdev_create(const char *name, const char *args);
int dio_vdev_remove(const char *name);

uint16_t dio_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **into, uint16_t n);
uint16_t dio_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n);
/* Lets the driver finish checksum offload requests; returns how many packets from the front may be sent. */
uint16_t dio_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n);
/* Puts a VLAN tag that the driver took out back into the frame; a frame it cannot do this for stays as it is. */
int dio_vlan_restore(struct rte_mbuf **mbuf);
/* Asks the port to complete the TCP checksum of an IPv4 (v6 == 0) or IPv6 packet. */
void dio_request_tcp_checksum(struct rte_mbuf *mbuf, uint16_t l2_len, uint16_t l3_len, int v6);

/* How a packet is cut into segments: lengths of its headers, and of the text of each. */
struct dio_tso {
	uint16_t l2_len, l3_len, l4_len;
	uint16_t mss;
	uint32_t v6;
	uint32_t ip_checksum;      /* the port works out those of IPv4, too */
};

/* Asks the port to do so. */
void dio_request_tso(struct rte_mbuf *mbuf, const struct dio_tso *tso);

#endif
