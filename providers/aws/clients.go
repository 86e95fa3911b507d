package aws

import (
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// maxRegions bounds how many regions have clients at hand: a class names any.
const maxRegions = 64

// clients are those of all regions. They share connections, and have no
// credentials: each call brings its own. Safe for concurrent use.
type clients struct {
	sdk   aws.Config
	pause time.Duration // the longest between two attempts

	mu      sync.Mutex
	regions map[string]*regional
}

// regional are the clients of one region.
type regional struct {
	secrets    *secretsmanager.Client
	parameters *ssm.Client
	sts        *sts.Client
}

// in returns the clients of a region.
func (c *clients) in(region string) *regional {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.regions[region]; known != nil {
		return known
	}
	if c.regions == nil || len(c.regions) >= maxRegions {
		c.regions = make(map[string]*regional)
	}
	sdk := c.sdk.Copy()
	sdk.Region = region
	made := &regional{
		secrets:    secretsmanager.NewFromConfig(sdk, func(o *secretsmanager.Options) { o.Retryer = c.patient() }),
		parameters: ssm.NewFromConfig(sdk, func(o *ssm.Options) { o.Retryer = c.patient() }),
		sts:        sts.NewFromConfig(sdk, func(o *sts.Options) { o.Retryer = c.patient() }),
	}
	c.regions[region] = made
	return made
}

// patient returns the retryer of one service in one region: it slows all calls
// down while the service throttles some, and gives up early while most fail.
func (c *clients) patient() aws.Retryer {
	return retry.NewAdaptiveMode(func(o *retry.AdaptiveModeOptions) {
		o.StandardOptions = append(o.StandardOptions, func(o *retry.StandardOptions) {
			o.MaxBackoff = c.pause
			o.Retryables = append(o.Retryables, retry.RetryableErrorCode{Codes: map[string]struct{}{"IDPCommunicationError": {}}})
		})
	})
}
