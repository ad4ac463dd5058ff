package engine

import (
	"time"

	"go.temporal.io/server/common/dynamicconfig"
)

// settings returns the server's dynamic configuration. Tuned, it is for one process with one shard
// on one file; what each group buys is in docs/operations.
func settings(untuned bool) dynamicconfig.StaticClient {
	values := dynamicconfig.StaticClient{
		// The caller's verified identity is written into history events; nobody can forge it.
		dynamicconfig.EnablePrincipalPropagation.Key(): true,
		// Search attributes added at start are visible at once.
		dynamicconfig.ForceSearchAttributesCacheRefreshOnRead.Key(): true,
		// The default of 10 lists a second is for shared clusters.
		dynamicconfig.FrontendMaxNamespaceVisibilityRPSPerInstance.Key(): 100,
	}
	if untuned {
		return values
	}
	// By default a shard hands out at most 20 batches of tasks a second, so with one shard every
	// workflow and activity task waits up to 50 ms.
	for _, key := range []dynamicconfig.Key{
		dynamicconfig.TransferProcessorMaxPollRPS.Key(),
		dynamicconfig.TimerProcessorMaxPollRPS.Key(),
		dynamicconfig.VisibilityProcessorMaxPollRPS.Key(),
		dynamicconfig.OutboundProcessorMaxPollRPS.Key(),
	} {
		values[key] = 5000
	}
	// Several partitions of a queue help several matching hosts; here they only add a hop.
	values[dynamicconfig.MatchingNumTaskqueueReadPartitions.Key()] = 1
	values[dynamicconfig.MatchingNumTaskqueueWritePartitions.Key()] = 1
	// The quotas protect a shared database; this file has one user.
	values[dynamicconfig.FrontendPersistenceMaxQPS.Key()] = 10000
	values[dynamicconfig.HistoryPersistenceMaxQPS.Key()] = 45000
	values[dynamicconfig.MatchingPersistenceMaxQPS.Key()] = 45000
	// A client that waits for a result holds a long poll of 20 s by default. When a workflow's last
	// events come faster than the poll's goroutine is woken, the server drops the notice of the last
	// one (its channel holds one) and the finished result is seen only when the poll ends. This makes
	// that a second.
	values[dynamicconfig.HistoryLongPollExpirationInterval.Key()] = time.Second
	// The default of 128,000 cached histories is for a host with a cluster's share of them.
	values[dynamicconfig.HistoryCacheHostLevelMaxSize.Key()] = 8096
	return values
}
