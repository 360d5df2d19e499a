// Checks a Kubernetes base without a cluster: every document strictly against the types of the
// API, every pod against PodSecurity. Reads YAML from standard input, prints a line for each
// problem; exit status 1 when there is one.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

func target(kind string) any {
	switch kind {
	case "apps/v1/Deployment":
		return &appsv1.Deployment{}
	case "apps/v1/StatefulSet":
		return &appsv1.StatefulSet{}
	case "v1/Namespace":
		return &corev1.Namespace{}
	case "v1/PersistentVolumeClaim":
		return &corev1.PersistentVolumeClaim{}
	case "v1/Secret":
		return &corev1.Secret{}
	case "v1/Service":
		return &corev1.Service{}
	case "v1/ServiceAccount":
		return &corev1.ServiceAccount{}
	case "networking.k8s.io/v1/NetworkPolicy":
		return &networkingv1.NetworkPolicy{}
	case "policy/v1/PodDisruptionBudget":
		return &policyv1.PodDisruptionBudget{}
	}
	return nil
}

func main() {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		panic(err)
	}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks())
	if err != nil {
		panic(err)
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	problems, checked := 0, 0
	for _, document := range strings.Split("\n"+string(text), "\n---\n") {
		if strings.TrimSpace(document) == "" {
			continue
		}
		var head metav1.TypeMeta
		var named struct {
			Metadata metav1.ObjectMeta `json:"metadata"`
		}
		if err := yaml.Unmarshal([]byte(document), &head); err != nil {
			panic(err)
		}
		_ = yaml.Unmarshal([]byte(document), &named)
		kind := head.APIVersion + "/" + head.Kind
		found := target(kind)
		if found == nil {
			if !strings.HasPrefix(kind, "keda.sh/") {
				problems++
				fmt.Printf("%s %s: unknown kind\n", kind, named.Metadata.Name)
			}
			continue
		}
		checked++
		if err := yaml.UnmarshalStrict([]byte(document), found); err != nil {
			problems++
			fmt.Printf("%s %s: %v\n", kind, named.Metadata.Name, err)
		}
		var pod *corev1.PodTemplateSpec
		switch each := found.(type) {
		case *appsv1.Deployment:
			pod = &each.Spec.Template
		case *appsv1.StatefulSet:
			pod = &each.Spec.Template
		}
		if pod == nil {
			continue
		}
		result := policy.AggregateCheckResults(evaluator.EvaluatePod(restricted, &pod.ObjectMeta, &pod.Spec))
		if !result.Allowed {
			problems++
			fmt.Printf("%s %s: %s\n", kind, named.Metadata.Name, result.ForbiddenDetail())
		}
	}
	fmt.Printf("%d documents checked, %d problems\n", checked, problems)
	if problems > 0 {
		os.Exit(1)
	}
}
