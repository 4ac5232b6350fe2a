#include "shim.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_ether.h>
#include <rte_flow.h>
#include <rte_ip.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_mbuf_pool_ops.h>
#include <rte_mempool.h>
#include <rte_ring.h>
#include <rte_version.h>

/* The fields that Rust reads and writes itself: must agree with RteMbuf in src/lib.rs. */
_Static_assert(sizeof(struct rte_mbuf) == 128, "rte_mbuf size");
_Static_assert(offsetof(struct rte_mbuf, buf_addr) == 0, "rte_mbuf.buf_addr");
_Static_assert(offsetof(struct rte_mbuf, data_off) == 16, "rte_mbuf.data_off");
_Static_assert(offsetof(struct rte_mbuf, refcnt) == 18, "rte_mbuf.refcnt");
_Static_assert(offsetof(struct rte_mbuf, nb_segs) == 20, "rte_mbuf.nb_segs");
_Static_assert(offsetof(struct rte_mbuf, port) == 22, "rte_mbuf.port");
_Static_assert(offsetof(struct rte_mbuf, ol_flags) == 24, "rte_mbuf.ol_flags");
_Static_assert(offsetof(struct rte_mbuf, packet_type) == 32, "rte_mbuf.packet_type");
_Static_assert(offsetof(struct rte_mbuf, pkt_len) == 36, "rte_mbuf.pkt_len");
_Static_assert(offsetof(struct rte_mbuf, data_len) == 40, "rte_mbuf.data_len");
_Static_assert(offsetof(struct rte_mbuf, hash.rss) == 44, "rte_mbuf.hash.rss");
_Static_assert(offsetof(struct rte_mbuf, buf_len) == 54, "rte_mbuf.buf_len");
_Static_assert(offsetof(struct rte_mbuf, pool) == 56, "rte_mbuf.pool");
_Static_assert(offsetof(struct rte_mbuf, next) == 64, "rte_mbuf.next");
_Static_assert(RTE_MBUF_F_RX_L4_CKSUM_BAD == 1ull << 3, "RX_L4_CKSUM_BAD");
_Static_assert(RTE_MBUF_F_RX_VLAN_STRIPPED == 1ull << 6, "RX_VLAN_STRIPPED");
_Static_assert(RTE_MBUF_F_RX_L4_CKSUM_GOOD == 1ull << 8, "RX_L4_CKSUM_GOOD");
_Static_assert(RTE_MBUF_F_EXTERNAL == 1ull << 61, "EXTERNAL");
_Static_assert(RTE_MBUF_F_INDIRECT == 1ull << 62, "INDIRECT");
#ifndef RTE_MBUF_REFCNT_ATOMIC
#error "libdpdk was configured without atomic mbuf reference counts: views cross threads"
#endif

const char *dio_version(void)
{
	return rte_version();
}

const char *dio_strerror(int error)
{
	return rte_strerror(error < 0 ? -error : error);
}

/* rte_eal_init pins its caller, and every thread the caller starts later would inherit that. */
int dio_eal_init(int argc, char **argv)
{
	cpu_set_t before;
	int saved = pthread_getaffinity_np(pthread_self(), sizeof(before), &before) == 0;
	int ret = rte_eal_init(argc, argv);
	int error = rte_errno;

	/* What it printed is buffered; the caller decides where stdout leads until we return. */
	fflush(stdout);
	if (saved)
		pthread_setaffinity_np(pthread_self(), sizeof(before), &before);
	if (ret < 0)
		return error != 0 ? -error : -EINVAL;
	return 0;
}

int dio_eal_cleanup(void)
{
	return rte_eal_cleanup();
}

static ssize_t dio_log_write(void *cookie, const char *text, size_t len)
{
	dio_log_sink sink;
	int level = rte_log_cur_msg_loglevel();

	memcpy(&sink, &cookie, sizeof(sink));
	sink(level < 0 ? RTE_LOG_INFO : (uint32_t)level, text, len);
	return (ssize_t)len;
}

int dio_log_to(dio_log_sink sink)
{
	cookie_io_functions_t functions = { .write = dio_log_write };
	void *cookie;
	FILE *stream;

	memcpy(&cookie, &sink, sizeof(cookie));
	stream = fopencookie(cookie, "w", functions);
	if (stream == NULL)
		return -errno;
	setvbuf(stream, NULL, _IOLBF, 0);
	return rte_openlog_stream(stream);
}

/* Idle loops sleep for microseconds; the default slack of 50 would swallow that. */
int dio_thread_register(void)
{
	prctl(PR_SET_TIMERSLACK, 1000ul, 0ul, 0ul, 0ul);
	return rte_thread_register() < 0 ? -rte_errno : 0;
}

void dio_thread_unregister(void)
{
	rte_thread_unregister();
}

int dio_thread_socket(void)
{
	return (int)rte_socket_id();
}

/* What rte_pktmbuf_pool_create makes, plus the pool that views of its buffers come from. */
struct dio_pool_private {
	struct rte_pktmbuf_pool_private mbuf;
	struct rte_mempool *clones;
};

struct rte_mempool *dio_pool_create(const char *name, uint32_t count, uint32_t cache,
	uint16_t data_room, struct rte_mempool *clones, int socket, int *error)
{
	struct rte_pktmbuf_pool_private sizes = { .mbuf_data_room_size = data_room };
	struct dio_pool_private *own;
	struct rte_mempool *pool;
	int ret;

	pool = rte_mempool_create_empty(name, count, sizeof(struct rte_mbuf) + data_room, cache,
		sizeof(struct dio_pool_private), socket, 0);
	if (pool == NULL) {
		*error = rte_errno;
		return NULL;
	}
	ret = rte_mempool_set_ops_byname(pool, rte_mbuf_best_mempool_ops(), NULL);
	if (ret == 0) {
		rte_pktmbuf_pool_init(pool, &sizes);
		own = rte_mempool_get_priv(pool);
		own->clones = clones != NULL ? clones : pool;
		ret = rte_mempool_populate_default(pool);
	}
	if (ret < 0) {
		rte_mempool_free(pool);
		*error = -ret;
		return NULL;
	}
	rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
	return pool;
}

void dio_pool_free(struct rte_mempool *pool)
{
	rte_mempool_free(pool);
}

uint32_t dio_pool_in_use(const struct rte_mempool *pool)
{
	return rte_mempool_in_use_count(pool);
}

uint32_t dio_pool_shared(const struct rte_mempool *pool)
{
	return rte_mempool_get_ops(pool->ops_index)->get_count(pool);
}

uint32_t dio_pool_element_size(const struct rte_mempool *pool)
{
	return pool->header_size + pool->elt_size + pool->trailer_size;
}

struct rte_mempool *dio_clones_of(struct rte_mempool *pool)
{
	struct dio_pool_private *own = rte_mempool_get_priv(pool);

	return own->clones;
}

struct rte_mbuf *dio_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

int dio_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **into, uint32_t n)
{
	return rte_pktmbuf_alloc_bulk(pool, into, n) == 0 ? 0 : -1;
}

void dio_free_chain(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free(mbuf);
}

void dio_free_segment(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free_seg(mbuf);
}

void dio_free_bulk(struct rte_mbuf **mbufs, uint32_t n)
{
	rte_pktmbuf_free_bulk(mbufs, n);
}

/* Far below what 16 bits count, above what transmit queues can hold of one buffer. */
#define DIO_MOST_REFERENCES 0xf000

/* rte_pktmbuf_attach adds without a locked instruction when it reads a count of one. That is wrong for
 * the buffer of an indirect mbuf which two threads clone at once, so the count is held above one. */
static uint16_t *dio_buffer_refcnt(struct rte_mbuf *mbuf)
{
	if (RTE_MBUF_HAS_EXTBUF(mbuf))
		return &mbuf->shinfo->refcnt;
	return &rte_mbuf_from_indirect(mbuf)->refcnt;
}

struct rte_mbuf *dio_clone(struct rte_mbuf *mbuf, uint16_t off, uint16_t len)
{
	uint16_t *refcnt = dio_buffer_refcnt(mbuf);
	struct rte_mbuf *clone;

	if (__atomic_load_n(refcnt, __ATOMIC_RELAXED) > DIO_MOST_REFERENCES)
		return NULL;
	clone = rte_pktmbuf_alloc(dio_clones_of(mbuf->pool));
	if (clone == NULL)
		return NULL;
	__atomic_fetch_add(refcnt, 1, __ATOMIC_ACQ_REL);
	rte_pktmbuf_attach(clone, mbuf);
	__atomic_fetch_sub(refcnt, 1, __ATOMIC_ACQ_REL);
	clone->ol_flags &= RTE_MBUF_F_INDIRECT | RTE_MBUF_F_EXTERNAL;
	clone->data_off = off;
	clone->data_len = len;
	clone->pkt_len = len;
	clone->next = NULL;
	clone->nb_segs = 1;
	return clone;
}

struct rte_mbuf *dio_copy_flat(struct rte_mempool *pool, struct rte_mbuf *packet)
{
	struct rte_mbuf *flat;
	const void *bytes;
	char *into;

	if (packet->pkt_len > UINT16_MAX)
		return NULL;
	flat = rte_pktmbuf_alloc(pool);
	if (flat == NULL)
		return NULL;
	into = rte_pktmbuf_append(flat, (uint16_t)packet->pkt_len);
	bytes = into == NULL ? NULL : rte_pktmbuf_read(packet, 0, packet->pkt_len, into);
	if (bytes == NULL) {
		rte_pktmbuf_free(flat);
		return NULL;
	}
	if (bytes != into)
		memcpy(into, bytes, packet->pkt_len);
	flat->ol_flags = packet->ol_flags & ~(RTE_MBUF_F_INDIRECT | RTE_MBUF_F_EXTERNAL);
	flat->vlan_tci = packet->vlan_tci;
	return flat;
}

int dio_port_by_name(const char *name, uint16_t *port)
{
	return rte_eth_dev_get_port_by_name(name, port);
}

uint16_t dio_port_next(uint16_t port, char name[64])
{
	port = (uint16_t)rte_eth_find_next(port);
	if (port >= RTE_MAX_ETHPORTS || rte_eth_dev_get_name_by_port(port, name) != 0)
		return UINT16_MAX;
	return port;
}

int dio_port_info(uint16_t port, struct dio_port_info *info)
{
	struct rte_eth_dev_info dev;
	struct rte_ether_addr mac;
	int ret = rte_eth_dev_info_get(port, &dev);

	if (ret != 0)
		return ret;
	memset(info, 0, sizeof(*info));
	snprintf(info->driver, sizeof(info->driver), "%s", dev.driver_name);
	if (rte_eth_macaddr_get(port, &mac) == 0)
		memcpy(info->mac, mac.addr_bytes, sizeof(info->mac));
	if (rte_eth_dev_get_mtu(port, &info->mtu) != 0)
		info->mtu = RTE_ETHER_MTU;
	info->max_mtu = dev.max_mtu;
	info->max_rx_queues = dev.max_rx_queues;
	info->max_tx_queues = dev.max_tx_queues;
	if (dev.rx_offload_capa & RTE_ETH_RX_OFFLOAD_TCP_CKSUM)
		info->rx_offloads |= DIO_RX_TCP_CKSUM;
	if (dev.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS)
		info->tx_offloads |= DIO_TX_MULTI_SEGS;
	if (dev.tx_offload_capa & RTE_ETH_TX_OFFLOAD_TCP_CKSUM)
		info->tx_offloads |= DIO_TX_TCP_CKSUM;
	if (dev.tx_offload_capa & RTE_ETH_TX_OFFLOAD_TCP_TSO)
		info->tx_offloads |= DIO_TX_TCP_TSO;
	if (dev.tx_offload_capa & RTE_ETH_TX_OFFLOAD_IPV4_CKSUM)
		info->tx_offloads |= DIO_TX_IPV4_CKSUM;
	if (dev.rx_offload_capa & RTE_ETH_RX_OFFLOAD_TCP_LRO)
		info->rx_offloads |= DIO_RX_TCP_LRO;
	/* Drivers that say nothing have no limit of their own. */
	info->tx_segments = dev.tx_desc_lim.nb_seg_max;
	info->tx_mtu_segments = dev.tx_desc_lim.nb_mtu_seg_max;
	if (dev.flow_type_rss_offloads & RTE_ETH_RSS_NONFRAG_IPV4_TCP)
		info->rss |= DIO_RSS_TCP4;
	if (dev.flow_type_rss_offloads & RTE_ETH_RSS_NONFRAG_IPV6_TCP)
		info->rss |= DIO_RSS_TCP6;
	info->reta_size = dev.reta_size;
	info->socket = rte_eth_dev_socket_id(port);
	return 0;
}

/* Repeating 6d5a makes the Toeplitz hash symmetric: both directions of a flow meet one queue. */
static void dio_symmetric_key(uint8_t *key, size_t len)
{
	for (size_t i = 0; i < len; i++)
		key[i] = i % 2 == 0 ? 0x6d : 0x5a;
}

int dio_port_configure(uint16_t port, const struct dio_port_conf *conf, struct rte_mempool **rx_pools)
{
	uint16_t rx_descriptors = conf->rx_descriptors, tx_descriptors = conf->tx_descriptors;
	struct rte_eth_conf eth = { 0 };
	struct rte_eth_dev_info dev;
	struct rte_eth_rxconf rx;
	struct rte_eth_txconf tx;
	uint8_t key[64];
	int ret = rte_eth_dev_info_get(port, &dev);

	if (ret != 0)
		return ret;
	eth.rxmode.mtu = RTE_MIN(conf->mtu, dev.max_mtu);
	if (conf->rx_offloads & DIO_RX_TCP_CKSUM)
		eth.rxmode.offloads |= dev.rx_offload_capa & RTE_ETH_RX_OFFLOAD_CHECKSUM;
	if (conf->tx_offloads & DIO_TX_MULTI_SEGS)
		eth.txmode.offloads |= RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
	if (conf->rx_offloads & DIO_RX_TCP_LRO) {
		/* What was joined comes in several buffers. */
		eth.rxmode.offloads |= RTE_ETH_RX_OFFLOAD_TCP_LRO
			| (dev.rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER);
		eth.rxmode.max_lro_pkt_size = RTE_MIN(dev.max_lro_pkt_size, (uint32_t)UINT16_MAX);
	}
	if (conf->tx_offloads & DIO_TX_TCP_CKSUM)
		eth.txmode.offloads |= RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
	if (conf->tx_offloads & DIO_TX_IPV4_CKSUM)
		eth.txmode.offloads |= RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
	if (conf->tx_offloads & DIO_TX_TCP_TSO)
		eth.txmode.offloads |= RTE_ETH_TX_OFFLOAD_TCP_TSO;
	if (conf->rss && conf->rx_queues > 1) {
		eth.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		eth.rx_adv_conf.rss_conf.rss_hf = dev.flow_type_rss_offloads
			& (RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP);
		if (dev.hash_key_size > 0 && dev.hash_key_size <= sizeof(key)) {
			dio_symmetric_key(key, dev.hash_key_size);
			eth.rx_adv_conf.rss_conf.rss_key = key;
			eth.rx_adv_conf.rss_conf.rss_key_len = dev.hash_key_size;
		}
	}
	ret = rte_eth_dev_configure(port, conf->rx_queues, conf->tx_queues, &eth);
	if (ret != 0)
		return ret;
	ret = rte_eth_dev_adjust_nb_rx_tx_desc(port, &rx_descriptors, &tx_descriptors);
	if (ret == 0)
		ret = rte_eth_dev_info_get(port, &dev);
	if (ret != 0)
		return ret;
	/* The driver's thresholds, but none of its offloads: MBUF_FAST_FREE, which nicvf has among them, frees
	 * what was sent whoever else refers to it, and into a pool that may be another's. */
	rx = dev.default_rxconf;
	rx.offloads = eth.rxmode.offloads;
	/* What finds no descriptor at one queue must not wait in the card in front of what is for the others. */
	if (conf->rx_queues > 1)
		rx.rx_drop_en = 1;
	tx = dev.default_txconf;
	tx.offloads = eth.txmode.offloads;
	for (uint16_t queue = 0; ret == 0 && queue < conf->rx_queues; queue++)
		ret = rte_eth_rx_queue_setup(port, queue, rx_descriptors,
			(unsigned int)rte_eth_dev_socket_id(port), &rx, rx_pools[queue]);
	for (uint16_t queue = 0; ret == 0 && queue < conf->tx_queues; queue++)
		ret = rte_eth_tx_queue_setup(port, queue, tx_descriptors,
			(unsigned int)rte_eth_dev_socket_id(port), &tx);
	return ret;
}

int dio_port_start(uint16_t port)
{
	return rte_eth_dev_start(port);
}

#define DIO_MOST_RETA 4096

int dio_port_set_reta(uint16_t port, const uint16_t *queues, uint16_t size)
{
	struct rte_eth_rss_reta_entry64 groups[DIO_MOST_RETA / RTE_ETH_RETA_GROUP_SIZE] = { 0 };

	if (size == 0 || size > DIO_MOST_RETA)
		return -EINVAL;
	for (uint16_t i = 0; i < size; i++) {
		struct rte_eth_rss_reta_entry64 *group = &groups[i / RTE_ETH_RETA_GROUP_SIZE];

		group->mask |= 1ull << (i % RTE_ETH_RETA_GROUP_SIZE);
		group->reta[i % RTE_ETH_RETA_GROUP_SIZE] = queues[i];
	}
	return rte_eth_dev_rss_reta_update(port, groups, size);
}

int dio_port_reta(uint16_t port, uint16_t *queues, uint16_t size)
{
	struct rte_eth_rss_reta_entry64 groups[DIO_MOST_RETA / RTE_ETH_RETA_GROUP_SIZE] = { 0 };
	int ret;

	if (size == 0 || size > DIO_MOST_RETA)
		return -EINVAL;
	for (uint16_t i = 0; i < size; i++)
		groups[i / RTE_ETH_RETA_GROUP_SIZE].mask |= 1ull << (i % RTE_ETH_RETA_GROUP_SIZE);
	ret = rte_eth_dev_rss_reta_query(port, groups, size);
	for (uint16_t i = 0; ret == 0 && i < size; i++)
		queues[i] = groups[i / RTE_ETH_RETA_GROUP_SIZE].reta[i % RTE_ETH_RETA_GROUP_SIZE];
	return ret;
}

int dio_port_set_rss_key(uint16_t port)
{
	uint8_t key[64], kept[64] = { 0 };
	struct rte_eth_rss_conf conf = { .rss_key = key };
	struct rte_eth_dev_info dev;
	int ret = rte_eth_dev_info_get(port, &dev);

	if (ret != 0)
		return ret;
	/* Some that take a key do not say how long it is. */
	conf.rss_key_len = dev.hash_key_size != 0 ? dev.hash_key_size : 40;
	if (conf.rss_key_len > sizeof(key))
		return -EINVAL;
	conf.rss_hf = dev.flow_type_rss_offloads & (RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP);
	dio_symmetric_key(key, conf.rss_key_len);
	/* Those that refuse may have taken it with their configuration. */
	(void)rte_eth_dev_rss_hash_update(port, &conf);
	conf.rss_key = kept;
	ret = rte_eth_dev_rss_hash_conf_get(port, &conf);
	if (ret != 0)
		return ret;
	return memcmp(key, kept, dev.hash_key_size != 0 ? dev.hash_key_size : 40) == 0 ? 0 : -EIO;
}

int dio_port_stop(uint16_t port)
{
	return rte_eth_dev_stop(port);
}

int dio_port_close(uint16_t port)
{
	return rte_eth_dev_close(port);
}

int dio_port_promiscuous(uint16_t port)
{
	return rte_eth_promiscuous_enable(port);
}

int dio_port_is_promiscuous(uint16_t port)
{
	return rte_eth_promiscuous_get(port);
}

int dio_port_allmulticast(uint16_t port)
{
	return rte_eth_allmulticast_enable(port);
}

int dio_port_set_mac(uint16_t port, const uint8_t mac[6])
{
	struct rte_ether_addr address;

	memcpy(address.addr_bytes, mac, sizeof(address.addr_bytes));
	return rte_eth_dev_default_mac_addr_set(port, &address);
}

int dio_port_set_mtu(uint16_t port, uint16_t mtu)
{
	return rte_eth_dev_set_mtu(port, mtu);
}

int dio_port_link(uint16_t port, struct dio_link *link)
{
	struct rte_eth_link state = { 0 };
	int ret = rte_eth_link_get_nowait(port, &state);

	link->up = state.link_status == RTE_ETH_LINK_UP;
	link->speed_mbps = state.link_speed;
	return ret;
}

int dio_port_stats(uint16_t port, struct dio_port_stats *stats)
{
	struct rte_eth_stats from;
	int ret = rte_eth_stats_get(port, &from);

	if (ret != 0)
		return ret;
	stats->rx_packets = from.ipackets;
	stats->rx_bytes = from.ibytes;
	stats->rx_missed = from.imissed;
	stats->rx_errors = from.ierrors;
	stats->rx_nombuf = from.rx_nombuf;
	stats->tx_packets = from.opackets;
	stats->tx_bytes = from.obytes;
	stats->tx_errors = from.oerrors;
	return 0;
}

int dio_port_xstats(uint16_t port, char (*names)[64], uint64_t *values, uint32_t n)
{
	int count = rte_eth_xstats_get_names(port, NULL, 0);
	struct rte_eth_xstat_name *all_names;
	struct rte_eth_xstat *all;
	int ret = count;

	if (count <= 0 || n == 0)
		return count;
	all_names = calloc((size_t)count, sizeof(*all_names));
	all = calloc((size_t)count, sizeof(*all));
	if (all_names == NULL || all == NULL) {
		ret = -ENOMEM;
		goto out;
	}
	if (rte_eth_xstats_get_names(port, all_names, (unsigned int)count) != count
		|| rte_eth_xstats_get(port, all, (unsigned int)count) != count) {
		ret = -EAGAIN;
		goto out;
	}
	for (int i = 0; i < count && (uint32_t)i < n; i++) {
		uint64_t id = all[i].id;

		if (id >= (uint64_t)count)
			continue;
		snprintf(names[i], sizeof(names[i]), "%s", all_names[id].name);
		values[i] = all[i].value;
	}
out:
	free(all_names);
	free(all);
	return ret;
}

struct rte_flow *dio_flow_create(uint16_t port, const struct dio_flow *flow, uint16_t queue, int *error)
{
	struct rte_flow_item_ipv4 v4 = { 0 }, v4_mask = { 0 };
	struct rte_flow_item_ipv6 v6 = { 0 }, v6_mask = { 0 };
	struct rte_flow_item_tcp tcp = { 0 }, tcp_mask = { 0 };
	struct rte_flow_attr attr = { .ingress = 1 };
	struct rte_flow_action_queue to = { .index = queue };
	struct rte_flow_item pattern[] = {
		{ .type = RTE_FLOW_ITEM_TYPE_ETH },
		{ .type = RTE_FLOW_ITEM_TYPE_IPV4, .spec = &v4, .mask = &v4_mask },
		{ .type = RTE_FLOW_ITEM_TYPE_TCP, .spec = &tcp, .mask = &tcp_mask },
		{ .type = RTE_FLOW_ITEM_TYPE_END },
	};
	struct rte_flow_action actions[] = {
		{ .type = RTE_FLOW_ACTION_TYPE_QUEUE, .conf = &to },
		{ .type = RTE_FLOW_ACTION_TYPE_END },
	};
	struct rte_flow_error why = { 0 };
	struct rte_flow *rule;
	int ret;

	if (flow->v6) {
		pattern[1].type = RTE_FLOW_ITEM_TYPE_IPV6;
		pattern[1].spec = &v6;
		pattern[1].mask = &v6_mask;
		memcpy(v6.hdr.src_addr, flow->src, 16);
		memcpy(v6.hdr.dst_addr, flow->dst, 16);
		memset(v6_mask.hdr.src_addr, 0xff, 16);
		memset(v6_mask.hdr.dst_addr, 0xff, 16);
	} else {
		memcpy(&v4.hdr.src_addr, flow->src, 4);
		memcpy(&v4.hdr.dst_addr, flow->dst, 4);
		v4_mask.hdr.src_addr = UINT32_MAX;
		v4_mask.hdr.dst_addr = UINT32_MAX;
	}
	tcp.hdr.src_port = rte_cpu_to_be_16(flow->src_port);
	tcp.hdr.dst_port = rte_cpu_to_be_16(flow->dst_port);
	tcp_mask.hdr.src_port = UINT16_MAX;
	tcp_mask.hdr.dst_port = UINT16_MAX;
	ret = rte_flow_validate(port, &attr, pattern, actions, &why);
	if (ret != 0) {
		*error = ret < 0 ? -ret : ret;
		return NULL;
	}
	rule = rte_flow_create(port, &attr, pattern, actions, &why);
	if (rule == NULL)
		*error = rte_errno;
	return rule;
}

int dio_flow_destroy(uint16_t port, struct rte_flow *rule)
{
	struct rte_flow_error why = { 0 };

	return rte_flow_destroy(port, rule, &why);
}

/* Not rte_ring_create: each of its rings takes a memzone and a name, and there are only 2,560 of those. */
struct rte_ring *dio_ring_create(uint32_t size, int socket, int *error)
{
	ssize_t bytes = rte_ring_get_memsize(size);
	struct rte_ring *ring;
	int ret;

	if (bytes < 0) {
		*error = (int)-bytes;
		return NULL;
	}
	ring = rte_zmalloc_socket("ring", (size_t)bytes, RTE_CACHE_LINE_SIZE, socket);
	if (ring == NULL) {
		*error = ENOMEM;
		return NULL;
	}
	ret = rte_ring_init(ring, "plait", size, RING_F_SP_ENQ | RING_F_SC_DEQ);
	if (ret != 0) {
		rte_free(ring);
		*error = -ret;
		return NULL;
	}
	return ring;
}

void dio_ring_free(struct rte_ring *ring)
{
	rte_free(ring);
}

uint32_t dio_ring_enqueue(struct rte_ring *ring, struct rte_mbuf **mbufs, uint32_t n)
{
	return rte_ring_sp_enqueue_burst(ring, (void **)mbufs, n, NULL);
}

uint32_t dio_ring_dequeue(struct rte_ring *ring, struct rte_mbuf **into, uint32_t n)
{
	return rte_ring_sc_dequeue_burst(ring, (void **)into, n, NULL);
}

int dio_vdev_create(const char *name, const char *args)
{
	return rte_eal_hotplug_add("vdev", name, args);
}

int dio_vdev_remove(const char *name)
{
	return rte_eal_hotplug_remove("vdev", name);
}

uint16_t dio_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **into, uint16_t n)
{
	return rte_eth_rx_burst(port, queue, into, n);
}

uint16_t dio_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n)
{
	return rte_eth_tx_burst(port, queue, mbufs, n);
}

uint16_t dio_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n)
{
	return rte_eth_tx_prepare(port, queue, mbufs, n);
}

int dio_vlan_restore(struct rte_mbuf **mbuf)
{
	return rte_vlan_insert(mbuf);
}

void dio_request_tcp_checksum(struct rte_mbuf *mbuf, uint16_t l2_len, uint16_t l3_len, int v6)
{
	mbuf->l2_len = l2_len;
	mbuf->l3_len = l3_len;
	mbuf->ol_flags |= RTE_MBUF_F_TX_TCP_CKSUM | (v6 ? RTE_MBUF_F_TX_IPV6 : RTE_MBUF_F_TX_IPV4);
}

void dio_request_tso(struct rte_mbuf *mbuf, const struct dio_tso *tso)
{
	dio_request_tcp_checksum(mbuf, tso->l2_len, tso->l3_len, (int)tso->v6);
	mbuf->l4_len = tso->l4_len;
	mbuf->tso_segsz = tso->mss;
	mbuf->ol_flags |= RTE_MBUF_F_TX_TCP_SEG;
	if (tso->ip_checksum) {
		mbuf->ol_flags |= RTE_MBUF_F_TX_IP_CKSUM;
		/* What stands there must be 0 (programmer's guide, "Meta Information"): there are cards that add
		 * it up, and drivers without a tx_prepare that would see to it. */
		rte_pktmbuf_mtod_offset(mbuf, struct rte_ipv4_hdr *, tso->l2_len)->hdr_checksum = 0;
	}
}
