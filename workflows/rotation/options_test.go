package rotation

import "go.temporal.io/sdk/client"

func workflowOptions(target string) client.StartWorkflowOptions {
	return client.StartWorkflowOptions{ID: WorkflowID(target), TaskQueue: "test"}
}
