package deploy

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
)

const group = "secrets-store.csi.x-k8s.io"

func rule(apiGroup, resource, verbs string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{apiGroup}, Resources: []string{resource}, Verbs: strings.Fields(verbs)}
}

// lookups are the rights of a driver that tells providers of the cluster.
var lookups = []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"serviceaccounts", "nodes"}, Verbs: []string{"get", "list", "watch"}}}

// granted is what each role gives to the driver.
var granted = map[string][]rbacv1.PolicyRule{
	"secretproviderclasses-role": {
		rule(group, "secretproviderclasses", "get list watch"),
		rule(group, "secretproviderclasspodstatuses", "get list create patch"),
		rule("", "events", "create patch"),
	},
	"secretprovidersyncing-role": {
		rule("", "secrets", "get create update delete"),
		rule("", "pods", "get"),
	},
	"secrets-mint-tokens": {
		rule("", "serviceaccounts/token", "create"),
	},
	"secrets-lookups":  lookups,
	"keymount-lookups": lookups,
	"secrets-startup-taint": {
		rule("", "nodes", "get patch"),
	},
}

// Every role that is bound to the driver's account, where, and with which rules.
func TestTheDriverHasTheRightsItNeedsAndNoOther(t *testing.T) {
	for file, want := range map[string]map[string][]string{
		standard: {"secretproviderclasses-role": {"the cluster"}},
		plugins:  {"secretproviderclasses-role": {"the cluster"}},
		stores:   {"secretproviderclasses-role": {"the cluster"}},
		azure:    {"secretproviderclasses-role": {"the cluster"}},
		aws:      {"secretproviderclasses-role": {"the cluster"}, "keymount-lookups": {"the cluster"}},
		withSync: {"secretproviderclasses-role": {"the cluster"}, "secretprovidersyncing-role": {"the cluster"}},
		everything: {"secretproviderclasses-role": {"the cluster"}, "secrets-startup-taint": {"the cluster"},
			"secrets-mint-tokens": {"the cluster"}, "secrets-lookups": {"the cluster"}, "secretprovidersyncing-role": {"shop", "shop-test"}},
	} {
		account := rbacv1.Subject{Kind: "ServiceAccount", Namespace: "kube-system", Name: podOf(t, file).ServiceAccountName}
		got := map[string][]string{}
		bound := func(ref rbacv1.RoleRef, subjects []rbacv1.Subject, where string) {
			got[ref.Name] = append(got[ref.Name], where)
			if diff := cmp.Diff([]rbacv1.Subject{account}, subjects); diff != "" || ref.Kind != "ClusterRole" {
				t.Errorf("%s: binding of %s: %s", file, ref.Name, diff)
			}
		}
		for _, b := range all[rbacv1.ClusterRoleBinding](t, file, "ClusterRoleBinding") {
			bound(b.RoleRef, b.Subjects, "the cluster")
		}
		for _, b := range all[rbacv1.RoleBinding](t, file, "RoleBinding") {
			bound(b.RoleRef, b.Subjects, b.Namespace)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: where roles are bound: -want +got\n%s", file, diff)
		}
		for _, role := range all[rbacv1.ClusterRole](t, file, "ClusterRole") {
			if _, isBound := got[role.Name]; !isBound {
				continue
			}
			if diff := cmp.Diff(granted[role.Name], role.Rules); diff != "" {
				t.Errorf("%s: %s: -want +got\n%s", file, role.Name, diff)
			}
		}
	}
}

func TestRolesOfPeopleAddToAdminEditAndView(t *testing.T) {
	const label = "rbac.authorization.k8s.io/aggregate-to-"
	got := map[string]string{}
	for _, role := range all[rbacv1.ClusterRole](t, standard, "ClusterRole") {
		var to []string
		for name, value := range role.Labels {
			if target, ok := strings.CutPrefix(name, label); ok && value == "true" {
				to = append(to, target)
			}
		}
		if len(to) == 0 {
			continue
		}
		slices.Sort(to)
		if len(role.Rules) != 1 || !cmp.Equal(role.Rules[0].APIGroups, []string{group}) {
			t.Errorf("%s: rules %+v, want one of the group %s", role.Name, role.Rules, group)
			continue
		}
		got[role.Name] = strings.Join(to, " ") + ": " + strings.Join(role.Rules[0].Verbs, " ") + " " + strings.Join(role.Rules[0].Resources, " ")
	}
	want := map[string]string{
		"secretproviderclasses-admin-role":           "admin edit: get list watch create update patch delete secretproviderclasses",
		"secretproviderclasses-viewer-role":          "view: get list watch secretproviderclasses",
		"secretproviderclasspodstatuses-viewer-role": "view: get list watch secretproviderclasspodstatuses",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestTheCSIDriverObject(t *testing.T) {
	expected := func(tokens []storagev1.TokenRequest, inSecrets *bool) storagev1.CSIDriverSpec {
		return storagev1.CSIDriverSpec{
			AttachRequired:               ptr(false),
			PodInfoOnMount:               ptr(true),
			RequiresRepublish:            ptr(true),
			VolumeLifecycleModes:         []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral},
			FSGroupPolicy:                ptr(storagev1.NoneFSGroupPolicy),
			TokenRequests:                tokens,
			ServiceAccountTokenInSecrets: inSecrets,
		}
	}
	usual := expected([]storagev1.TokenRequest{{Audience: "vault"}, {Audience: "openbao"}, {Audience: "sts.amazonaws.com"},
		{Audience: "pods.eks.amazonaws.com"}, {Audience: "api://AzureADTokenExchange"}}, ptr(true))
	for file, want := range map[string]storagev1.CSIDriverSpec{
		standard:   usual,
		withSync:   usual,
		everything: expected([]storagev1.TokenRequest{{Audience: "vault", ExpirationSeconds: ptr[int64](900)}}, nil),
		plugins:    expected(nil, nil), // the field is refused without tokens
	} {
		object := one[storagev1.CSIDriver](t, file, "CSIDriver")
		if diff := cmp.Diff(want, object.Spec); diff != "" {
			t.Errorf("%s: -want +got\n%s", file, diff)
		}
		if got := object.Labels["security.openshift.io/csi-ephemeral-volume-profile"]; got != "restricted" {
			t.Errorf("%s: the profile of the volumes is %q, so that OpenShift would refuse them", file, got)
		}
	}
}
